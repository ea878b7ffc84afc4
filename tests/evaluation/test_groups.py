"""Names of tasks, the papers' groups and their published rows."""

import json
import math

import pytest

from inheritune.cli.evaluation import show_tasks
from inheritune.errors import InputError
from inheritune.evaluation import expand, with_averages
from inheritune.evaluation.groups import AVERAGES, GROUPS, HARNESS, Entry, check_published, published_rows
from inheritune.results import EvaluatedModel, EvaluationResult, Harness, TaskScore


def figures(metric: str = "acc", shots: int = 0, value: float = 0.5, se: float | None = 0.1) -> TaskScore:
    return TaskScore(metric=metric, shots=shots, value=value, se=se)


def test_names_groups_and_shots() -> None:
    assert expand(["own", "mmlu@5", "a/b@c.yaml"], "x") == (Entry("own"), Entry("mmlu", shots=5), Entry("a/b@c.yaml"))
    both = expand(["inheritune-v1", "inheritune-v4"], "x")
    assert len(both) == 10 + 8 - 3  # PIQA, WinoGrande and BoolQ are in both, asked for in one way
    assert Entry("mmlu", "acc", 5) in both
    with pytest.raises(
        InputError, match=r"^x: piqa is asked for twice, as acc with 0 shots and as all its metrics with 2"
    ):
        expand(["inheritune-v1", "piqa@2"], "x")


def test_the_average_is_there_when_all_its_tasks_are() -> None:
    values = {"arc_easy": 0.5, "piqa": 0.6, "sciq": 0.7, "hellaswag": 0.3, "lambada_openai": 0.4}
    tasks = {name: figures("acc_norm" if name == "hellaswag" else "acc", value=value) for name, value in values.items()}
    (found,) = (one for name, one in with_averages(tasks).items() if name not in tasks)
    assert found.value == pytest.approx(0.5)
    assert found.se == pytest.approx(math.sqrt(5 * 0.01) / 5)
    assert with_averages({**tasks, "hellaswag": figures()}).keys() == tasks.keys()  # another metric
    assert with_averages({**tasks, "piqa": figures(shots=5)}).keys() == tasks.keys()


def test_published_rows_are_those_of_the_same_metric_and_shots() -> None:
    rows = published_rows({"mmlu": figures(shots=5), "wsc": figures(shots=2), "own": figures()}, [])
    assert [row.tasks.keys() for row in rows] == [{"mmlu"}] * 6
    named = {row.name: row.tasks["mmlu"].value for row in rows}
    assert named["OpenLLaMA-3B (1T)"] == 0.2721
    assert named["Inheritune-1.5B (1B)"] == 0.2567
    assert len(published_rows({"inheritune-v4 average": figures("mean of 5 tasks")}, ["own"])) == 6
    assert published_rows({"piqa": figures(shots=3)}, []) == []
    assert published_rows({"piqa": figures()}, ["piqa"]) == []
    for entry in (Entry("piqa", shots=3), Entry("logiqa", "acc", 0)):
        with pytest.raises(InputError, match="none of these tasks has a published figure of its metric and shots"):
            check_published([entry], "x")
    with pytest.raises(InputError, match="ask for inheritune-v1 or inheritune-v4"):
        check_published([Entry("own")], "x")
    check_published(GROUPS["inheritune-v4"], "x")


def test_published_rows_stand_beside_and_lines_are_not_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    tasks = {entry.name: figures(entry.metric or "", entry.shots or 0) for entry in GROUPS["inheritune-v1"]}
    harness = Harness(version="0.4.99", limit=None, pinned=HARNESS, own=[])
    ours = EvaluatedModel(name="ours", path="ours", parameters=9, layers=1, tasks=tasks)
    show_tasks(EvaluationResult(text=None, harness=harness, models=[ours], published=published_rows(tasks, [])))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(len(line) for line in lines if "Published" not in line) <= 80
    assert sum(line.split()[:1] == ["wsc"] for line in lines) == 3  # in three tables, each of which fits
    assert shown.count("(published)") == 6
    assert "0.5096" in shown
    assert f"made for lm-eval {HARNESS}; with 0.4.99 their figures may differ" in shown


@pytest.mark.long
def test_the_groups_are_tasks_of_the_pinned_harness_with_these_metrics() -> None:
    from inheritune import harness

    assert harness.version() == HARNESS
    index = harness.task_manager().task_index
    from lm_eval.tasks._yaml_loader import load_yaml

    for entry in {entry for group in GROUPS.values() for entry in group}:
        config = load_yaml(index[entry.name].yaml_path, resolve_func=False)
        metrics = config.get("metric_list") or config["aggregate_metric_list"]
        assert entry.metric in [one["metric"] for one in metrics], entry
        assert config.get("num_fewshot", entry.shots) == entry.shots
    assert all(
        part in {entry.name for entry in GROUPS["inheritune-v4"]} for parts in AVERAGES.values() for part in parts
    )
    assert json.dumps(sorted(GROUPS)) == '["inheritune-v1", "inheritune-v4"]'
