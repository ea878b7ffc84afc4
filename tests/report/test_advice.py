"""What a run's numbers advise, and that nothing is advised without them; the sentences in the verdict, on the page, in the terminal."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from run_example import judged, make_run, save

from inheritune.cli.tables import show_summary
from inheritune.report import behind_until, tokens_to_match, verdict, write_report
from inheritune.report.advice import blocks_to_match
from inheritune.report.forecast import LONGEST
from inheritune.results import Outcome, Round, RunSummary

STEPS = 1000


def write_curve(folder: Path, floor: float, upto: int = STEPS, height: float = 0.8) -> float:
    """metrics.jsonl of a training of STEPS steps at a constant rate whose loss falls as a power; returns the last loss."""
    folder.mkdir(parents=True, exist_ok=True)
    random = iter(math.sin(9 * number) for number in range(STEPS))
    records: list[dict[str, Any]] = [
        {"step": 0, "tokens": 0, "val_loss": 9.0, "planned_rates": [[1, 1e-3], [STEPS, 1e-3]]}
    ]
    loss = 0.0
    for step in range(1, upto + 1):
        record: dict[str, Any] = {"step": step, "tokens": 100 * step, "loss": 1.0, "learning_rate": 1e-3}
        if step % 25 == 0:
            loss = floor + height * (step / STEPS) ** -0.3 + 0.004 * next(random)
            record["val_loss"] = loss
        records.append(record)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return loss


def outcome(gap: float, upper: float | None, loss: float = 3.2) -> Outcome:
    decision = "matched" if upper is not None and upper <= 0 else "undecided" if gap <= 0 else "behind"
    return Outcome.model_validate(
        {"layers": 4, "parameters": 60, "val_loss": loss, "val_loss_se": 0.01, "gap": gap, "gap_se": 0.01, "gap_upper": upper, "decision": decision, "model": "m"}
    )  # fmt: skip


def gain(times: float) -> float:
    """What a training `times` as long gains on that of `write_curve`."""
    return float(0.8 * (1 - times**-0.3))


def test_tokens_that_would_match_are_found_on_the_law_of_the_curve(tmp_path: Path) -> None:
    write_curve(tmp_path, 2.4)
    found = tokens_to_match(tmp_path, outcome(gain(2) - 0.02, gain(2)), 100_000, tolerance=0.0)
    assert found is not None
    assert found.middle == pytest.approx(200_000, rel=0.15)
    assert found.low is not None
    assert 100_000 < found.low < 200_000
    assert found.high is None or found.high > 200_000
    assert (found.trained, found.most) == (100_000, 100_000 * LONGEST)
    assert found.loss_at_most == pytest.approx(3.2 - gain(LONGEST), abs=0.05)
    easier = tokens_to_match(tmp_path, outcome(gain(2) - 0.02, gain(2)), 100_000, tolerance=0.1)
    assert easier is not None
    assert easier.middle is not None
    assert easier.middle < found.middle
    assert (
        tokens_to_match(tmp_path, outcome(gain(2), None), 100_000, 0.0) == found
    )  # without an error, by the gap itself


def test_no_tokens_are_named_for_a_match_nor_without_a_curve(tmp_path: Path) -> None:
    write_curve(tmp_path, 2.4)
    assert tokens_to_match(tmp_path, outcome(-0.1, -0.05), 100_000, 0.0) is None
    assert tokens_to_match(tmp_path / "nowhere", outcome(0.1, 0.15), 100_000, 0.0) is None
    write_curve(tmp_path / "short", 2.4, upto=100)
    assert tokens_to_match(tmp_path / "short", outcome(0.1, 0.15), 100_000, 0.0) is None


def round_of(layers: int, gap: float) -> Round:
    return Round.model_validate(
        judged(layers, 3.0 + gap) | {"model": f"rounds/{layers}", "gap": gap, "gap_upper": gap, "tokens": 1000}
    )


@pytest.mark.parametrize(
    ("gaps", "blocks"),
    [
        ({4: 0.3, 8: -0.1}, 7),
        ({4: 0.3, 6: 0.2, 10: -0.2}, 8),
        ({4: 0.4, 8: 0.2, 12: 0.1}, None),  # the gain shrinks: beyond the last step
        ({4: 0.4, 8: 0.2, 12: 0.05}, 14),
        ({4: 0.3, 8: 0.2, 12: 0.05}, 14),
        ({4: 0.3, 5: -0.1}, None),  # nothing between them
        ({4: 0.3, 8: -0.01}, None),  # the round itself
        ({4: 0.3, 8: 0.1}, None),  # two rounds are no trend
        ({4: 0.3, 8: 0.35, 12: 0.1}, None),
        ({4: 0.3, 8: 0.3, 12: 0.1}, None),
        ({8: -0.1}, None),
        ({}, None),
    ],
)
def test_blocks_that_would_match_lie_between_rounds_or_just_above(gaps: dict[int, float], blocks: int | None) -> None:
    assert blocks_to_match([round_of(*one) for one in gaps.items()], 0.0, total=24) == blocks
    assert blocks_to_match([round_of(*one) for one in gaps.items()], 0.0, total=14) in (
        None,
        blocks if blocks != 14 else None,
    )


def run_with(folder: Path, **result: Any) -> RunSummary:
    """The finished run of `make_run`, its rounds behind, with keys of its result."""
    tree = json.loads((make_run(folder) / "summary.json").read_text())
    behind = {"gap": 0.2, "gap_upper": 0.22, "decision": "behind", "val_loss": 3.2}
    tree["rounds"] = [
        tree["rounds"][0] | behind | {"gap": 0.4, "gap_upper": 0.42, "val_loss": 3.4},
        tree["rounds"][1] | behind,
    ]
    tree["result"] |= behind | result
    save(folder / "summary.json", tree)
    return RunSummary.read(folder / "summary.json")


TOKENS = {
    "trained": 1_000_000,
    "middle": 3_000_000,
    "low": 1_800_000,
    "high": 3_700_000,
    "most": 4_000_000,
    "loss_at_most": 3.0,
}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (TOKENS, "Its curve suggests that about 3M training tokens instead of 1M would match (80 % interval: 1.8M to 3.7M), given as much more text."),
        (TOKENS | {"high": None}, "would match (80 % interval: 1.8M to more than 4M), given as much more text."),
        (TOKENS | {"middle": None, "high": None}, "Its curve suggests that more than 4M training tokens instead of 1M would be needed to match."),
        (
            TOKENS | {"middle": None, "low": None, "high": None, "loss_at_most": 3.11},
            "Its curve suggests that even 4M training tokens instead of 1M would not match: they would bring it to about 3.11, and the reference has 3.00.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_has_the_forecast_of_its_summary(tmp_path: Path, found: dict[str, Any], sentence: str) -> None:
    assert sentence in verdict(run_with(tmp_path / "run", tokens_to_match=found))


def test_a_verdict_without_numbers_advises_nothing(tmp_path: Path) -> None:
    said = verdict(run_with(tmp_path / "run"))
    assert said.startswith("Behind the reference up to 4 blocks")
    assert "Its curve suggests" not in said
    assert "The gaps of the rounds" not in said
    assert "inheriting" not in said  # the random control is worse


def test_blocks_between_two_rounds_are_named(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run")
    rounds = [round_of(2, 0.3), round_of(8, -0.1)]
    reference = run.reference.model_copy(update={"layers": 12})
    said = verdict(run.model_copy(update={"rounds": rounds, "reference": reference, "tolerance": 0.0}))
    assert "The gaps of the rounds suggest that about 7 blocks would match at this length." in said


@pytest.mark.parametrize(
    ("interval", "until", "sentence"),
    [
        ([-0.2, -0.1], None, " So inheriting does not pay at this length."),
        ([-0.2, -0.1], 400_000, " So inheriting does not pay at this length; the inherited model was ahead up to about 400K training tokens."),
        ([-0.2, 0.1], 0, " So inheriting shows no gain at this length, nor at an earlier point of the curve."),
        ([0.1, 0.2], 400_000, ""),
    ],
)  # fmt: skip
def test_random_weights_that_are_as_good_are_said_to_be(
    tmp_path: Path, interval: list[float], until: int | None, sentence: str
) -> None:
    run = run_with(tmp_path / "run")
    control = run.controls[0].model_copy(update={"over_result_interval": tuple(interval), "behind_until": until})
    said = verdict(run.model_copy(update={"controls": [control]}))
    assert said.endswith(f"against the inherited one.{sentence}")


def test_where_the_inherited_model_was_ahead_is_read_off_the_curves(tmp_path: Path) -> None:
    write_curve(tmp_path / "inherited", 3.0, height=0.2)
    write_curve(tmp_path / "random", 2.8, height=0.3)  # level where 0.2 = 0.1 share^-0.3, at a tenth of the steps
    found = behind_until(tmp_path / "random", tmp_path / "inherited")
    assert found == pytest.approx(0.1 * 100 * STEPS, rel=0.3)
    assert behind_until(tmp_path / "inherited", tmp_path / "inherited") == 0
    write_curve(tmp_path / "short", 2.8, upto=100)
    assert behind_until(tmp_path / "short", tmp_path / "inherited") is None


def test_the_terminal_has_the_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_summary(run_with(tmp_path / "run", tokens_to_match=TOKENS), tmp_path / "run")
    shown = " ".join(capsys.readouterr().out.split())
    assert "about 3M training tokens instead of 1M would match (80 % interval: 1.8M to 3.7M)" in shown


def test_the_page_has_a_forecast_of_what_runs_and_of_what_is_behind(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "round 1")
    place, missing = folder / "rounds" / "1-2layers", gain(2)
    write_curve(place, 2.4)
    for file in (place / "evaluation.json", folder / "summary.json"):
        tree = json.loads(file.read_text())
        for one in [tree, *tree.get("rounds", [])]:
            one |= {"gap_upper": missing, "tokens": 100_000} if "gap_upper" in one else {}
        save(file, tree)
    write_curve(folder / "rounds" / "2-4layers", 2.3, upto=500)
    markdown = write_report(folder).with_name("report.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")
        for line in markdown.partition("## Forecast")[2].partition("## ")[0].splitlines()
        if line.startswith("| round")
    ]
    first, second = rows
    assert [first[0], first[1]] == ["| round 1: 2 blocks", "100%"]
    assert float(first[-1].split("K")[0]) == pytest.approx(200, rel=0.15)
    assert [second[0], second[1]] == ["| round 2: 4 blocks", "50%"]
    middle, low, high = (float(part.strip("()")) for part in second[3].replace("(", "").replace(" to ", " ").split())
    assert low < 3.1 < high
    assert middle == pytest.approx(3.1, abs=0.1)
    assert "In brackets are 80 % intervals." in markdown


def test_a_page_without_curves_that_tell_has_no_forecast(tmp_path: Path) -> None:
    markdown = write_report(make_run(tmp_path / "run")).with_name("report.md").read_text(encoding="utf-8")
    assert "Forecast" not in markdown
