import pytest

from inheritune.report import spans, table, verdict
from inheritune.report.notation import duration
from inheritune.results import RunState


def summary(matched: bool = True, finished: bool = True, **control_more: object) -> RunState:
    round_1 = {
        "layers": 4, "parameters": 60, "blocks": [0, 1, 2, 3], "tokens": 1000, "steps": 10, "flops": 10**9, "val_loss": 2.9,
        "val_loss_se": 0.02, "gap": -0.1, "gap_se": 0.01, "matched": matched, "tokens_per_second": 5.0, "model": "m",
        "epochs": 1.0, "left_over_tokens": 0, "seconds": 2.0,
    }  # fmt: skip
    control = round_1 | {"name": "random", "val_loss": 3.2, "gap": 0.2, "over_result": 0.3, "over_result_se": 0.01}
    return RunState.model_validate({
        "finished": finished, "tolerance": 0.0, "reference": {"name": "large", "layers": 8, "parameters": 100, "val_loss": 3.0, "val_loss_se": 0.02},
        "rounds": [round_1], "controls": [control | control_more], "result": round_1,
        "validation_sequences": 3,
    })  # fmt: skip


def test_matched() -> None:
    assert verdict(summary()) == (
        "Matched: with 4 of the reference's 8 blocks and 60% of its parameters the target reaches validation loss 2.9000, the"
        " reference 3.0000 (gap -0.1000 ±0.0100). The same small model from random weights, on the same tokens, is worse:"
        " 3.2000, +0.3000 ±0.0100 against the inherited one (30 standard errors)."
    )


def test_not_matched_is_said_and_so_is_not_finished() -> None:
    assert verdict(summary(matched=False)).startswith("Not matched up to 4 blocks: ")
    assert verdict(summary(finished=False)).startswith("Not finished. So far: matched: ")


def test_a_control_that_wins_is_said_to_be_better() -> None:
    assert "is better: 2.8000, -0.1000 ±0.0100" in verdict(summary(val_loss=2.8, over_result=-0.1))


def test_reference_continued_shows_what_adaptation_alone_gives() -> None:
    found = summary(name="reference-continued", val_loss=2.7, gap=-0.3)
    assert "trained on the same tokens, would reach 2.7000 (gap -0.3000 ±0.0100)" in verdict(found)


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    header, rows = table(summary(), narrow=True)
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    assert [row[0] for row in rows] == ["reference", "round 1", "control: random"]


@pytest.mark.parametrize(("blocks", "text"), [([0], "0"), ([0, 1, 2], "0-2"), ([0, 1, 5, 7, 8], "0-1, 5, 7-8")])
def test_spans(blocks: list[int], text: str) -> None:
    assert spans(blocks) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (61, "1 min 1 s"), (7325, "2 h 2 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
