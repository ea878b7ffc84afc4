import pytest

from inheritune.report import spans, table, verdict
from inheritune.results import RunState
from inheritune.runlog import duration


def summary(
    decision: str = "matched", finished: bool = True, more: dict[str, object] | None = None, **control_more: object
) -> RunState:
    round_1 = {
        "layers": 4, "parameters": 60, "blocks": [0, 1, 2, 3], "tokens": 1000, "steps": 10, "flops": 10**9, "val_loss": 2.9,
        "val_loss_se": 0.02, "gap": -0.1, "gap_se": 0.01, "gap_upper": -0.08, "decision": decision, "tokens_per_second": 5.0, "model": "m",
        "epochs": 1.0, "left_over_tokens": 0, "seconds": 2.0, **(more or {}),
    }  # fmt: skip
    control = round_1 | {
        "name": "random",
        "val_loss": 3.2,
        "gap": 0.2,
        "gap_upper": 0.22,
        "over_result": 0.3,
        "over_result_se": 0.01,
    }
    control["over_result_interval"] = (0.28, 0.32)
    return RunState.model_validate({
        "finished": finished, "tolerance": 0.01, "reference": {"name": "large", "layers": 8, "parameters": 100, "val_loss": 3.0, "val_loss_se": 0.02},
        "rounds": [round_1], "controls": [control | control_more], "result": round_1,
        "validation_sequences": 3, "validation_documents": 30,
    })  # fmt: skip


def test_matched() -> None:
    assert verdict(summary()) == (
        "Matched within 0.01 nats: with 4 of the reference's 8 blocks and 60% of its parameters the target reaches validation loss 2.9000, the"
        " reference 3.0000 (gap -0.1000 ±0.0100). The same small model from random weights, on the same tokens, is worse:"
        " 3.2000, +0.3000 ±0.0100 against the inherited one."
    )


def test_behind_is_said_and_so_is_not_finished() -> None:
    assert verdict(summary("behind")).startswith("Behind the reference up to 4 blocks: ")
    assert verdict(summary(finished=False)).startswith("Not finished. So far: matched within 0.01 nats: ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"gap": 0.0, "gap_upper": 0.03, "tokens_to_decide": 450_000},
            "The gap may be up to +0.0300, which is more than 0.01; about 450K tokens of validation text would decide.",
        ),
        (
            {"gap": 0.01, "gap_upper": 0.03, "tokens_to_decide": None},
            "it is so close to 0.01 that more validation text would hardly decide.",
        ),
        (
            {"gap": 0.0, "gap_se": None, "gap_upper": None, "tokens_to_decide": None},
            "The validation text is a single stretch, so the gap has no error: give more validation text.",
        ),
    ],
)
def test_undecided_says_what_would_decide(more: dict[str, object], words: str) -> None:
    said = verdict(summary("undecided", more=more))
    assert said.startswith("Undecided: with 4 of the reference's 8 blocks")
    assert words in said


def test_a_control_that_wins_is_said_to_be_better() -> None:
    ahead = {"val_loss": 2.8, "over_result": -0.1}
    assert "is better: 2.8000, -0.1000 ±0.0100" in verdict(summary(**ahead, over_result_interval=(-0.12, -0.08)))
    for unknown in ((-0.22, 0.02), None):
        assert "is not told apart: 2.8000, -0.1000 ±0.0100" in verdict(summary(**ahead, over_result_interval=unknown))


def test_an_under_trained_reference_is_said_first() -> None:
    found = verdict(summary(name="reference-continued", val_loss=2.7, gap=-0.3, gap_upper=-0.28))
    assert found.startswith(
        "The reference is under-trained on this text: the same training brings it to 2.7000 (gap -0.3000 ±0.0100), so its"
        " loss is easy to reach. Matched within 0.01 nats: with 4 of"
    )
    assert found.count("2.7000") == 1


def test_a_reference_that_gains_nothing_is_said_last() -> None:
    found = verdict(summary(name="reference-continued", val_loss=2.99, gap=-0.01, gap_upper=0.003))
    assert found.startswith("Matched within 0.01 nats")
    assert "trained on the same tokens, would reach 2.9900 (gap -0.0100 ±0.0100)" in found


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
