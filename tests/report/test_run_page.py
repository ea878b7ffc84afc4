"""The page of a run, whole or killed in any stage, as far as it is read without a browser."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_example import FLOPS, HOSTILE, TASKS, make_run, save

from inheritune.errors import InputError
from inheritune.report import write_report
from inheritune.report.curves import Curve, Curves
from inheritune.report.run_folder import RunFolder
from inheritune.report.sections.loss_curves import draw_curves
from inheritune.report.tasks import task_table
from inheritune.results import EvaluationResult, RunSummary, ShapeChoice

ORDER = (
    "Matched: with 4 of the reference", "Rounds and controls", "Validation loss during training", "Attention by layer",
    "The same prompts, continued", "Tasks", "Cost", "The model", "How to reproduce it",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("whole") / "run")
    write_report(folder)
    return folder


def test_all_parts_stand_in_their_order(whole: Path) -> None:
    for text in ((whole / "report" / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")):
        places = [text.index(part.replace("'", "&#39;")) for part in ORDER]
        assert places == sorted(places)
        assert "inheritune run &#39;my recipe.yaml&#39;" in text or "inheritune run 'my recipe.yaml'" in text


def test_markdown_names_every_figure_and_texts_are_text(whole: Path) -> None:
    markdown = (whole / "report" / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"\(figures/(.*?\.png)\)", markdown)
    assert sorted(named) == sorted(file.name for file in (whole / "report" / "figures").iterdir())
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # its own
    assert HOSTILE in markdown  # fenced
    assert "[40 line breaks]" in page


def test_shapes_that_were_tried_stand_on_the_page(whole: Path, tmp_path: Path) -> None:
    assert "## Shapes" not in (whole / "report" / "report.md").read_text(encoding="utf-8")
    speed = {"rate": 20.0, "times": 2.0, "lowest": 1.9, "highest": 2.1}
    shapes = [
        {"layers": 3, "heads": None, "mlp": None, "parameters": 3_000_000, "loss": 3.2, "generation": speed},
        {"layers": 4, "heads": 2, "mlp": 96, "hidden": 24, "parameters": 2_900_000, "loss": 3.1, "recovered": 3.0},
        {"layers": 5, "heads": None, "mlp": 64, "parameters": 3_100_000, "loss": 3.3, "generation": speed},
    ]  # fmt: skip
    folder = make_run(tmp_path / "run")
    reference = {"layers": 6, "heads": None, "mlp": None, "parameters": 6_000_000, "loss": 2.9}
    choice = {"speed": "2x generation", "reference": reference, "measured_on": "cpu", "candidates": shapes}
    save(folder / "shape.json", choice | {"chosen": 1, "tokens": 5000, "held_out": 2500})
    assert ShapeChoice.read(folder / "shape.json").frontier == [0, 1]
    write_report(folder)
    markdown = (folder / "report" / "report.md").read_text(encoding="utf-8")
    row = next(line for line in markdown.splitlines() if "chosen" in line and line.startswith("|"))
    assert [cell.strip() for cell in row.strip("|").split("|")][:6] == ["4", "2", "96", "24", "2.9M", ""]
    assert "20 (2.00x, 1.90-2.10)" in markdown
    assert "Asked for: 2x generation. 3 shapes tried." in markdown
    words = "4 blocks, 2 heads, MLP 96, 24 channels"
    (drawn,) = points((folder / "report" / "index.html").read_text(encoding="utf-8"), "shapes")
    assert [text.splitlines()[0] for _, _, text in drawn] == ["3 blocks", words, "5 blocks, MLP 64"]
    assert drawn[1][0] < drawn[0][0] < drawn[2][0]  # by parameters
    assert drawn[1][1] > drawn[0][1] > drawn[2][1]  # by loss, downwards in a drawing


def points(page: str, figure: str) -> list[list[tuple[float, float, str]]]:
    """Of each curve that shows values: x and y in the drawing, and the text."""
    svg = next(found for found in re.findall(r"<svg.*?</svg>", page, re.S) if f'id="{figure}-figure_1"' in found)
    groups = [g for g in ElementTree.fromstring(svg).iter() if (g.get("id") or "").startswith(f"{figure}-values-")]
    return [
        [(float(use.get("x", "")), float(use.get("y", "")), "".join(use.itertext())) for use in group.iter() if use.get("class") == "point"]
        for group in groups
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "most"), [("tokens", "4K tokens"), ("steps", "40 steps"), ("flops", f"{4000 * FLOPS / 1e6:g}M FLOPs")]
)
def test_curves_show_their_values_at_their_points(whole: Path, axis: str, most: str) -> None:
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    curves = points(page, f"loss-by-{axis}")
    assert [curve[0][2].partition("\n")[0] for curve in curves] == [
        "round 1: 2 blocks", "round 2: 4 blocks", "control: random, 4 blocks",
    ]  # fmt: skip
    assert all(len(curve) == 5 for curve in curves)
    first = curves[0]
    assert first[-1][2] == f"round 1: 2 blocks\n{most}: 3.2000"
    xs, ys = [x for x, _, _ in first], [y for _, y, _ in first]
    assert xs == pytest.approx([xs[0] + n * (xs[-1] - xs[0]) / 4 for n in range(5)], abs=0.01)
    assert ys == sorted(ys)  # losses fall, so places in the drawing go down


def test_points_stay_few_however_long_the_training() -> None:
    long = [{"tokens": 100.0 * n, "val_loss": 5 - n / 5000} for n in range(20000)]
    picture = draw_curves(Curves([Curve(name, long) for name in "abc"]), "tokens")
    assert picture is not None
    assert len(picture.svg) < 200_000
    curves = points(picture.svg, "loss-by-tokens")
    assert sum(map(len, curves)) == 600
    assert [(c[0][2], c[-1][2]) for c in curves] == [
        (f"{name}\n0 tokens: 5.0000", f"{name}\n2M tokens: 1.0002") for name in "abc"
    ]


SAID = {
    "begun": ("Not finished: the reference is not judged yet.", "How to reproduce it"),
    "reference": ("Not finished: the reference, 6 blocks, has validation loss 3.0000; no round judged so far.", "No training has begun."),
    "training": ("no round judged so far", "round 1: 2 blocks: not finished; at step 40 (4K tokens) the training loss is 3.2000."),
    "round 1": ("Not finished. So far: behind the reference up to 2 blocks", "round 1"),
    "controls": ("Not finished. So far: matched", "control: random"),
}  # fmt: skip


@pytest.mark.parametrize("stage", list(SAID))
def test_a_run_killed_in_any_stage_gives_a_page_with_what_there_is(stage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", stage)
    markdown = write_report(folder).with_name("report.md").read_text(encoding="utf-8")
    assert all(said in markdown for said in SAID[stage])
    assert ("by tokens" in markdown) == (stage not in ("begun", "reference"))
    assert ("from\\_pretrained" in markdown or "from_pretrained" in markdown) == (stage in ("round 1", "controls"))


def test_a_round_judged_since_the_summary_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "controls")
    summary = json.loads((folder / "summary.json").read_text())
    save(folder / "summary.json", summary | {"rounds": summary["rounds"][:1], "result": summary["rounds"][0]})
    state = RunFolder.read(folder).state
    assert [one.layers for one in state.rounds] == [2, 4]
    assert [one.name for one in state.controls] == ["random"]


@pytest.mark.parametrize("cut", [2, 20, 60])
def test_metrics_cut_in_the_middle_of_a_line_are_read_up_to_there(cut: int, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "training")
    file = folder / "rounds" / "1-2layers" / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    curve = RunFolder.read(folder).curves().curves[0]
    assert [point["steps"] for point in curve.points] == [0, 10, 20, 30]
    assert "at step 39 " in (RunFolder.read(folder).trainings[0].state() or "")


def test_what_earlier_rounds_cost_is_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["rounds"][1] |= {"tokens_before": 4000, "steps_before": 40, "flops_before": 10**7}
    curve = RunFolder.read(folder, RunSummary.model_validate(summary)).curves().curves[1]
    assert (curve.points[0]["tokens"], curve.points[-1]["tokens"], curve.points[-1]["steps"]) == (4000, 8000, 80)
    assert curve.points[-1]["flops"] == 10**7 + 4000 * FLOPS


def test_the_references_line_is_on_the_curves_sequences(whole: Path) -> None:
    assert RunFolder.read(whole).curves().levels == {"reference, final": pytest.approx(2.95)}


def test_parent_and_child_stand_beside_each_other_with_what_differs() -> None:
    tasks = EvaluationResult.model_validate(TASKS)
    header, rows = task_table(tasks.models, tasks.published)
    assert header == ["task", "reference", "target", "OpenLLaMA-3B (published)", "metric", "shots"]
    assert rows == [
        ["validation loss (nats a token)", "3.0000 ±0.0100", "2.9000 ±0.0100", "", "", ""],
        ["bits per byte", "1.1000", "", "", "", ""],
        ["piqa", "0.7500 ±0.0100", "0.7400 (acc_norm, 5 shots)", "0.7497", "acc", "0"],
    ]


def test_tasks_of_another_format_and_a_damaged_recipe(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    save(folder / "tasks.json", {"format": 9})
    with pytest.raises(InputError, match="is of version 9, not 1; use the inheritune that wrote it, or delete it"):
        write_report(folder)
    for damaged in ("{", "[]", "evaluate: 3", ""):
        (folder / "recipe.yaml").write_text(damaged)
        with pytest.raises(InputError, match=r"recipe\.yaml: is damaged"):
            write_report(folder)
