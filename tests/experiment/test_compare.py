"""Tiny suites from end to end: what is recorded, what a failure and an interruption do, what a person sees."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import read_json, weights
from inheritune import compare
from inheritune.cli import main
from inheritune.cli.comparison import show_comparison
from inheritune.data import open_prepared
from inheritune.errors import InputError, Interrupted
from inheritune.experiment import training_run
from inheritune.results import ArmResult, Comparison, JudgedArm
from tiny_suites import make_reference, tiny_suite

pytestmark = pytest.mark.long
RENDERS = True  # pages have their figures

ARMS: list[dict[str, Any]] = [
    {"name": "inherit", "start": "inherit"},
    {"name": "random", "start": "random"},
    {"name": "random twice", "start": "random", "train": {"length": "16 steps"}, "allow_unequal": "twice the steps"},
    {"name": "stacking", "start": "stacking"},
    {"name": "distilled", "start": "inherit", "train": {"distillation": {"top_k": 8, "outputs": "stored"}}},
    {"name": "taught", "start": "random", "train": {"distillation": {"top_k": 8, "outputs": "stored"}}},
    {"name": "too hot", "start": "random", "train": {"optimizer": {"learning_rate": 1e36, "clip": None}}},
    {"name": "on too hot", "start": {"kind": "inherit", "layers": 1, "of": "too hot"}},
    {
        "name": "grown", "allow_unequal": "rounds",
        "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 2, "until": "max_layers"}},
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def suite(text: Path) -> dict[str, Any]:
    published = {"source": "a paper", "values": {"reference": 2.81, "inherit": 2.8, "another": 3.5}}
    return tiny_suite(text, None, ARMS, seeds=[1, 2], published=published)


@pytest.fixture(scope="module")
def found(folder: Path, suite: dict[str, Any]) -> Comparison:
    return compare(suite, folder / "out")


def arm_of(found: Comparison, name: str) -> JudgedArm:
    return next(arm for arm in found.judged if arm.name == name)


def test_every_arm_has_the_figures_of_a_round(found: Comparison, folder: Path) -> None:
    assert read_json(folder / "out" / "comparison.json") == found.to_json()
    assert found.finished
    for arm in found.to_json()["arms"]:
        if "too hot" in arm["name"]:
            assert "val_loss" not in arm
            continue
        for key in (
            "layers", "parameters", "tokens", "steps", "flops", "seconds", "val_loss", "val_loss_se", "gap", "gap_se",
            "gap_upper", "decision", "tokens_per_second", "model",
        ):  # fmt: skip
            assert key in arm, (arm["name"], key)
        assert (folder / "out" / arm["model"] / "model.safetensors").is_file()


def test_equal_budgets_by_the_recorded_tokens(found: Comparison, folder: Path) -> None:
    """Not from the plan: from each training's own metrics."""
    for name, tokens in (
        ("inherit", 512),
        ("random", 512),
        ("stacking", 512),
        ("distilled", 512),
        ("random twice", 1024),
    ):
        arm = arm_of(found, name)
        for run in arm.runs:
            place = folder / "out" / run.folder
            files = [place / stage.folder / "metrics.jsonl" for stage in run.stages]
            last = [json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["tokens"] for file in files]
            assert sum(last) == tokens
        assert arm.tokens == tokens
        assert arm.equal == (tokens == 512)
    assert [stage.tokens for stage in arm_of(found, "stacking").runs[0].stages] == [256, 256]


def test_figures_over_clusters_and_seeds(found: Comparison, folder: Path) -> None:
    arm = arm_of(found, "inherit")
    results = [ArmResult.read(folder / "out" / "arms" / "inherit" / f"seed-{seed}" / "result.json") for seed in (1, 2)]
    losses = [np.average(result.cluster_losses, weights=result.cluster_tokens) for result in results]
    assert arm.val_loss == pytest.approx(sum(losses) / 2)
    assert arm.val_loss_margin_seeds == pytest.approx(12.7062 * abs(losses[0] - losses[1]) / 2, rel=1e-4)
    random = arm_of(found, "random")
    assert arm.random == "random"
    assert arm.over_random == pytest.approx(arm.val_loss - random.val_loss)
    apart = [a.val_loss - b.val_loss for a, b in zip(arm.runs, random.runs, strict=True)]
    assert arm.over_random_interval is not None
    assert arm.over_random_interval[0] < arm.over_random < arm.over_random_interval[1]
    assert arm.over_random_margin_seeds == pytest.approx(12.7062 * abs(apart[0] - apart[1]) / 2, rel=1e-4)
    assert arm.gap == pytest.approx(arm.val_loss - found.reference.val_loss)
    assert arm.best_val_loss <= arm.val_loss + 1e-12


def test_growth_counts_all_rounds(found: Comparison) -> None:
    arm = arm_of(found, "grown")
    assert (arm.tokens, arm.equal) == (2 * 512, False)
    assert [stage.layers for stage in arm.runs[0].stages] == [1, 2]
    assert arm.flops == sum(stage.flops for stage in arm.runs[0].stages)


def test_a_teachers_cost_stands_apart(found: Comparison) -> None:
    assert arm_of(found, "distilled").flops == arm_of(found, "inherit").flops
    assert (arm_of(found, "distilled").teacher_flops or 0) > 0
    assert arm_of(found, "inherit").teacher_flops is None


def test_a_teachers_outputs_are_computed_once_for_all_arms_and_seeds(found: Comparison, folder: Path) -> None:
    assert len(list((folder / "shared" / "teachers").glob("*/manifest.json"))) == 1
    costs = [run.teacher_flops for name in ("distilled", "taught") for run in arm_of(found, name).runs]
    assert len(costs) == 4
    assert len(set(costs)) == 1
    assert costs[0]


def test_a_tiny_suite_takes_less_than_two_minutes(found: Comparison, folder: Path) -> None:
    """All arms with two seeds, and the reference; from the first file to the last."""
    files = [file.stat().st_mtime for file in folder.rglob("*") if file.is_file()]
    assert max(files) - min(files) < 120


def test_a_failed_arm_is_shown_and_stops_no_other(found: Comparison, folder: Path) -> None:
    for name, words in (("too hot", "the loss is"), ("on too hot", "it needs the result of too hot, which failed")):
        arm = next(arm for arm in found.arms if arm.name == name)
        assert arm.state == "failed"
        assert [failure.seed for failure in arm.failures] == [1, 2]
        assert words in arm.failures[0].error
    assert arm_of(found, "grown").state == "finished"
    report = (folder / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "| too hot |" in report
    assert "too hot, seed 1, failed: " in report


def test_the_report_names_what_is_unequal_and_published(found: Comparison, folder: Path) -> None:
    report = folder / "out" / "report"
    page, markdown = ((report / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    assert "* random twice: another budget, 1.02K tokens: twice the steps." in page
    assert "Published: validation loss, a paper." in markdown
    assert "| another |" in markdown
    assert page.count("<svg") == 3
    assert all(name in page for name in ("steps", "tokens", "flops", "random twice"))
    assert all(
        (report / "figures" / f"loss-by-{axis}.png").stat().st_size > 1000 for axis in ("steps", "tokens", "flops")
    )


def test_called_again_only_what_failed_is_tried(found: Comparison, folder: Path, suite: dict[str, Any]) -> None:
    """And an arm that is new, and a seed; another arm under the same name is refused."""
    out = folder / "out"
    kept = {file: file.stat().st_mtime_ns for file in out.glob("arms/*/*/result.json")}
    more = [arm for arm in ARMS if "too hot" not in arm["name"]] + [{"name": "lazy", "start": "lazy"}]
    again = compare(suite | {"arms": more, "seeds": [1, 2, 3]}, out)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert arm_of(again, "lazy").state == "finished"
    assert [run.seed for run in arm_of(again, "random").runs] == [1, 2, 3]
    other = [{"name": "inherit", "start": "lazy"}]
    with pytest.raises(InputError, match=r"^arm inherit: .* belongs to another training: start\.layers"):
        compare(suite | {"arms": other}, out)
    with pytest.raises(InputError, match=r"belongs to another suite: train\.batch"):
        compare(suite | {"train": suite["train"] | {"batch": "8 sequences"}}, out)


def test_suites_share_text_and_reference(found: Comparison, folder: Path, suite: dict[str, Any]) -> None:
    kept = sorted(place for place in (folder / "shared").glob("*-*") if place.is_dir())
    other = compare(
        suite | {"arms": [{"name": "lazy", "start": "lazy"}], "seeds": [5], "published": None}, folder / "other"
    )
    assert sorted(place for place in (folder / "shared").glob("*-*") if place.is_dir()) == kept
    assert other.reference.val_loss == found.reference.val_loss
    assert (folder / "other" / (other.reference.folder or "") / "model").is_dir()


def test_suites_share_arms_that_are_alike(found: Comparison, folder: Path, suite: dict[str, Any]) -> None:
    """Whatever they are called: the same start in other words is trained once, another seed or budget is not; one that
    was taken away is made again.
    """
    arms = [
        {"name": "first 2", "start": {"kind": "inherit", "layers": [0, 1]}},
        {"name": "two stages", "start": "stacking"},
        {"name": "shorter", "start": "inherit", "train": {"length": "6 steps"}, "allow_unequal": "shorter"},
    ]
    asked = suite | {"arms": arms, "seeds": [2, 7], "published": None}
    out, shared = folder / "alike", folder / "shared" / "arms"
    before = len(list(shared.iterdir()))
    alike = compare(asked, out)
    assert len(list(shared.iterdir())) == before + 4  # of six, two were there
    for name, theirs in (("first 2", "inherit"), ("two stages", "stacking")):
        mine, other = out / "arms" / name, folder / "out" / "arms" / theirs
        assert (mine / "seed-2").resolve() == (other / "seed-2").resolve()
        assert (mine / "seed-7").resolve().parent == shared.resolve()
    assert arm_of(alike, "first 2").runs[0].val_loss == arm_of(found, "inherit").runs[1].val_loss
    gone = (out / "arms" / "shorter" / "seed-7").resolve()
    shutil.rmtree(gone)
    compare(asked, out)
    assert (gone / "result.json").exists()


def test_interrupted_it_goes_on_to_the_same_bits(
    found: Comparison, folder: Path, suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the second stage of an arm: 130's exception, and afterwards the weights of an uninterrupted one."""
    arms = [arm for arm in ARMS if arm["name"] in ("inherit", "stacking")]
    apart = folder / "apart"
    shutil.copytree(folder / "shared", apart, ignore=shutil.ignore_patterns("arms"))
    losses, calls = training_run.mean_loss, 0

    def interrupting(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5 + 3 + 2:  # inherit: 0, 2, 4, 6, 8; the first stage: 0, 2, 4; the second: 0, 2
            os.kill(os.getpid(), signal.SIGINT)
        return losses(*words)

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "mean_loss", interrupting)
        with pytest.raises(Interrupted, match="stacking, seed 1: stopped"):
            compare(suite | {"arms": arms}, folder / "interrupted", shared=apart)
    before = Comparison.read(folder / "interrupted" / "comparison.json")
    assert not before.finished
    assert [arm.state for arm in before.arms] == ["waiting", "waiting"]
    compare(suite | {"arms": arms}, folder / "interrupted", shared=apart)
    for name in ("inherit", "stacking"):
        model = Path(arm_of(found, name).model)
        assert weights(folder / "interrupted" / model) == weights(folder / "out" / model)


def test_two_comparisons_at_once_train_what_they_share_once(
    found: Comparison, suite: dict[str, Any], tmp_path: Path
) -> None:
    """Both begin with the same text, reference and arm; the later one waits for each and reads it."""
    arms = [arm for arm in ARMS if arm["name"] in ("inherit", "random")]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite | {"arms": arms}))
    command = [sys.executable, "-m", "inheritune", "compare", str(tmp_path / "suite.yaml")]
    started = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / name)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "another process is at work in it; waiting for its result" in said[0] + said[1]
    assert (said[0] + said[1]).count("inherit, seed 1: evaluating") == 1
    results = [Comparison.read(tmp_path / name / "comparison.json") for name in ("one", "two")]
    for result in results:
        assert [arm.val_loss for arm in result.judged] == [arm_of(found, arm["name"]).val_loss for arm in arms]


def test_arms_with_text_of_their_own(text: Path, tmp_path: Path, tokenizer: Any) -> None:
    """Another size, and a filter that leaves documents out: judged on the suite's validation, none of it trained on."""
    reference = make_reference(tmp_path / "model", tokenizer)
    lengths = sorted(len(file.read_text(encoding="utf-8")) for file in text.iterdir())
    short = {"filter": "length", "max_characters": lengths[len(lengths) // 2]}
    arms = [
        {"name": "all", "start": "inherit"},
        {"name": "few", "start": "inherit", "data": {"size": "300 tokens"}},
        {"name": "filtered", "start": "inherit", "data": {"filters": [short]}},
    ]
    found = compare(tiny_suite(text, reference, arms), tmp_path / "out")
    assert [arm.failures for arm in found.arms] == [[], [], []]
    assert [arm.equal for arm in found.judged] == [True, True, True]
    epochs = [arm.epochs for arm in found.judged]
    assert epochs[1] > epochs[2] > epochs[0]
    assert epochs[1] == pytest.approx(512 / 300, rel=0.1)

    def documents(folder: Path, split: str) -> set[str]:
        tokens = open_prepared(folder).tokens(split)
        return set(re.findall(r"Document \d+\.", tokenizer.decode(tokens.read())))

    folders = [folder for folder in (tmp_path / "shared").glob("data-*") if folder.is_dir()]
    assert len(folders) == 3
    whole = max(folders, key=lambda folder: len(documents(folder, "train")))
    for folder in folders:
        assert documents(folder, "train")
        assert not documents(folder, "train") & documents(whole, "validation")


def test_a_wide_terminal_shows_all_columns(
    found: Comparison, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns, there in (("250", True), ("80", False)):
        monkeypatch.setenv("COLUMNS", columns)
        show_comparison(found, folder / "out")
        shown = capsys.readouterr().out
        assert [name in shown for name in ("params", "seconds")] == [there] * 2
        assert "val. loss" in shown


def test_the_command(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write_recipe: Any) -> None:
    arms = [{"name": "random", "start": "random"}, next(arm for arm in ARMS if arm["name"] == "too hot")]
    (tmp_path / "base.yaml").write_text(json.dumps(tiny_suite(text, None, [])), encoding="utf-8")
    file = write_recipe({"base": "base.yaml", "arms": arms}, "suite.yaml")
    words = ["compare", str(file), "--out", str(tmp_path / "out"), "--quiet", "--train.length=4 steps"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "1 of 2 arms failed: too hot" in shown.err
    assert "Equal budget: 256 training tokens" in shown.out
    assert main(["compare", str(file), "--arms.0.start=nothing"]) == 2
    assert "there is no start 'nothing'" in capsys.readouterr().err
