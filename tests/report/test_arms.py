import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_example import make_comparison

from inheritune.report import arm_curve, comparison_table, speed_up, speed_up_cell, tokens_to_reach, verdict_of
from inheritune.report.comparison import ComparisonFolder, comparison_verdict
from inheritune.report.curves import Curve, Curves, noise
from inheritune.report.notation import short
from inheritune.report.sections.loss_curves import draw_curves
from inheritune.report.sections.tokens_to_reach import section
from inheritune.report.shown import Shown
from inheritune.results import ArmStage, Comparison, JudgedArm, SeedSummary


def write_metrics(folder: Path, losses: dict[int, float]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "tokens": 10 * step, "val_loss": loss}) for step, loss in losses.items()]
    lines.insert(1, json.dumps({"step": 1, "loss": 9.0}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_curve_goes_through_all_stages_and_is_a_mean_over_seeds(tmp_path: Path) -> None:
    """Two stages of 2 and 4 steps of 10 tokens; a token costs 3 FLOPs in the first and 6 in the second."""
    stages = [
        ArmStage.model_construct(folder="first", steps=2, tokens=20, flops=60),
        ArmStage.model_construct(folder=".", steps=4, tokens=40, flops=240),
    ]
    for seed in (1, 2):
        write_metrics(tmp_path / f"{seed}" / "first", {0: 6.0 + seed, 2: 5.0})
        write_metrics(tmp_path / f"{seed}" / "more", {0: 1.0})  # of nobody
        (tmp_path / f"{seed}" / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": s, "tokens": 10 * s, "val_loss": 4 - s / 4 + seed}) + "\n" for s in (0, 2, 4))
        )
    curve = arm_curve(tmp_path, [SeedSummary.model_construct(folder=folder, stages=stages) for folder in ("1", "2")])
    assert [point["tokens"] for point in curve] == [0, 20, 20, 40, 60]
    assert [point["steps"] for point in curve] == [0, 2, 2, 4, 6]
    assert [point["flops"] for point in curve] == [0, 60, 60, 180, 300]
    assert [point["val_loss"] for point in curve] == [7.5, 5.0, 5.5, 5.0, 4.5]


@pytest.mark.parametrize(
    ("loss", "tokens"), [(4.0, 10.0), (3.5, 15.0), (3.0, 20.0), (9.0, 0.0), (1.0, None), (2.0, 40.0)]
)
def test_tokens_to_reach_a_loss(loss: float, tokens: float | None) -> None:
    """On the straight lines between 5 at 0, 3 at 20, 3.2 at 30 and 2 at 40 tokens."""
    curve = [{"tokens": t, "val_loss": v} for t, v in ((0.0, 5.0), (20.0, 3.0), (30.0, 3.2), (40.0, 2.0))]
    assert tokens_to_reach(curve, loss) == (None if tokens is None else pytest.approx(tokens))


def arm(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "start": "inherit", "state": "finished", "failures": [], "allow_unequal": None, "layers": 2,
        "parameters": 10, "blocks": [0, 1], "tokens": 100, "steps": 10, "epochs": 1.0, "left_over_tokens": 0, "flops": 1e3, "seconds": 2.0,
        "tokens_per_second": 50.0, "model": "m", "runs": [], "best_val_loss_margin_seeds": None, "val_loss": 3.0, "val_loss_se": 0.01,
        "val_loss_margin_seeds": None, "best_val_loss": 2.9, "best_val_loss_se": 0.01, "gap": 0.1, "gap_se": 0.01,
        "gap_upper": 0.12, "decision": "behind", "flops_to_match": None, "equal": True, **more,
    }  # fmt: skip


def test_the_table_marks_names_and_leaves_away() -> None:
    found: dict[str, Any] = {
        "finished": True,
        "budget_tokens": 100,
        "seeds": [1],
        "tolerance": 0.0,
        "validation_sequences": 3,
        "validation_documents": 30,
        "curve_sequences": 3,
        "reference": {"name": "large", "layers": 4, "parameters": 20, "val_loss": 2.9, "val_loss_se": None},
        "arms": [
            arm(
                "one",
                random="other",
                over_random=-0.2,
                over_random_se=0.05,
                over_random_interval=(-0.3, -0.1),
                speed_up=2.0,
                speed_up_range=(1.8, None),
            ),
            arm("twice", equal=False, allow_unequal="twice"),
            {
                "name": "broken",
                "start": "random",
                "state": "failed",
                "failures": [{"seed": 1, "error": "oh"}],
                "allow_unequal": None,
            },
        ],
        "published": {"source": "a paper", "figure": "validation loss", "values": {"one": 2.8, "elsewhere": 2.7}},
    }
    compared = Comparison.model_validate(found)
    arms = [one.model_copy(update={"verdict": verdict_of(one)}) for one in compared.arms]
    compared = compared.model_copy(update={"arms": arms})
    header, rows = comparison_table(compared)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(table) == ["reference", "one", "twice", "broken", "elsewhere"]
    assert (table["one"]["tokens"], table["twice"]["tokens"]) == ("100", "100 *")
    assert (table["one"]["speed-up"], table["one"]["verdict"]) == ("2x (at least 1.8)", "behind, better than other")
    assert table["broken"]["verdict"] == "failed"
    assert (table["one"]["published"], table["elsewhere"]["published"]) == ("2.8", "2.7")
    assert "± seeds" not in header
    assert "FLOPs to match" not in header
    assert "params" not in comparison_table(compared, narrow=True)[0]


def test_an_under_trained_reference_is_said_first(tmp_path: Path) -> None:
    folder = ComparisonFolder.read(make_comparison(tmp_path / "out"))
    assert folder.comparison is not None
    ahead = JudgedArm.model_validate(arm("all", start="reference", val_loss=2.5, gap=-0.5) | {"gap_upper": -0.4})
    found = folder.comparison.model_copy(update={"arms": [*folder.comparison.arms, ahead]})
    assert comparison_verdict(found).startswith("The reference is under-trained on this text: the same training brings")
    assert comparison_verdict(folder.comparison).startswith("Lowest of 3 arms: arm 0")


def test_tokens_to_reach_losses_between_the_worst_arm_and_the_best(tmp_path: Path) -> None:
    """Straight curves from 5 to 2.9, 3.0 and 3.1 over 4000 tokens."""
    found = section(Shown([("", ComparisonFolder.read(make_comparison(tmp_path / "out")))]))
    ((_, (header, rows)),) = found.tables
    assert header == ["arm", "3.100", "3.050", "3.000", "2.950", "2.900"]
    by_arm = {row[0]: row[1:] for row in rows}
    assert list(by_arm) == ["reference", "arm 0", "arm 1", "arm 2"]
    assert by_arm["arm 0"] == [short(round(4000 * (5 - level) / 2.1)) for level in (3.1, 3.05, 3.0, 2.95, 2.9)]
    assert by_arm["arm 2"] == ["4K", "", "", "", ""]


def test_curves_of_many_arms_leave_room_for_themselves() -> None:
    """Warnings are errors here, and matplotlib warns when the names squeeze the axes to nothing."""
    points = [
        dict(zip(("steps", "tokens", "flops", "val_loss"), at, strict=True)) for at in ((0, 0, 0, 5), (1, 10, 9, 3))
    ]
    for count in (3, 30):
        curves = [Curve(f"an arm with a long name, number {number}", points) for number in range(count)]
        picture = draw_curves(Curves(curves, {"reference, final": 2.5}), "steps")
        assert picture is not None
        assert all(curve.name in picture.svg for curve in curves)


def fallen(name: str, start: float, end: float, wave: float = 0.0) -> Curve:
    """A straight line over 1000 tokens in 11 points, with a wave from point to point."""
    points = [
        {"steps": at, "tokens": 100.0 * at, "val_loss": start + (end - start) * at / 10 + wave * (-1) ** at}
        for at in range(11)
    ]
    return Curve(name, points)


def test_the_noise_of_a_curve_is_that_about_a_smooth_line() -> None:
    assert noise(fallen("smooth", 5, 3).points) == pytest.approx(0, abs=1e-12)
    random = np.random.default_rng(1)
    steep = [{"tokens": float(at), "val_loss": 9 * 0.7**at + random.normal(0, 0.02)} for at in range(2000)]
    assert noise(steep) == pytest.approx(0.02, rel=0.1)
    assert noise(steep[:4]) == 0.0


def test_speed_up_is_read_off_the_curves_with_their_noise() -> None:
    random = fallen("random", 6, 4)
    plain = speed_up(fallen("inherit", 5, 3).points, random.points)
    assert plain.middle == pytest.approx(2)
    assert plain.range == pytest.approx((2, 2))
    noisy = speed_up(fallen("inherit", 5, 3, 0.02).points, random.points)
    assert noisy.range[0] < 2 < noisy.range[1]  # type: ignore[operator]
    assert speed_up(fallen("from the start", 3.9, 3).points, random.points).middle is None
    close = speed_up(fallen("close", 6, 3.999).points, fallen("random", 6, 4, 0.1).points)
    assert close.range[0] is None  # within the noise it may not have been reached


def test_an_arm_that_ends_behind_has_no_speed_up() -> None:
    one = JudgedArm.model_validate(arm("one", random="other", over_random=0.2, over_random_interval=(0.1, 0.3)))
    assert speed_up_cell(one) == ""
    assert "worse than other" in verdict_of(one)
    for unclear in ({"over_random_margin_seeds": 0.21}, {"over_random_interval": (-0.1, 0.4)}):
        assert "not told apart from other" in verdict_of(one.model_copy(update=unclear))
