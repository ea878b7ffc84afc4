from pathlib import Path
from typing import Any

import pytest

from inheritune import grow, prepare
from inheritune.errors import InputError
from inheritune.experiment.rounds import best_round, continues, depths, round_stages
from inheritune.recipe import Grow, Inherit
from inheritune.results import RoundResult
from inheritune.runlog import locked


@pytest.mark.parametrize(
    ("layers", "grow", "total", "expected"),
    [
        (13, {}, 26, [13, 15, 17, 19, 21, 23, 25]),
        (0.5, {"max_layers": 8}, 12, [6, 8]),
        (4, {"max_layers": 7}, 12, [4, 6, 7]),
        (4, {"by": 3, "max_layers": 12}, 12, [4, 7, 10, 12]),
        (12, {}, 12, [12]),
        (1, {}, 1, [1]),
    ],
)
def test_depths(layers: Any, grow: dict[str, Any], total: int, expected: list[int]) -> None:
    assert depths(Inherit(layers=layers), Grow(**grow), total) == expected


def test_without_growth_there_is_one_round() -> None:
    assert depths(Inherit(layers=5), None, 12) == [5]
    assert depths(Inherit(layers=[0, 1, 11]), None, 12) == [3]
    assert [stage.blocks for stage in round_stages(Inherit(layers=[0, 1, 11]), None, 12)] == [[0, 1, 11]]


@pytest.mark.parametrize(
    ("layers", "max_layers", "words"),
    [
        (13, None, "13 blocks asked for, the reference has 12"),
        (4, 13, "the reference has 12"),
        (4, 3, "below the first"),
    ],
)
def test_depths_that_cannot_be(layers: int, max_layers: int | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        depths(Inherit(layers=layers), Grow(max_layers=max_layers), 12)


def rounds(decisions: str, losses: list[float] | None = None, gap: float = -0.1) -> list[RoundResult]:
    words = {"m": "matched", "u": "undecided", "b": "behind"}
    return [
        RoundResult.model_construct(decision=words[one], gap=-gap if one == "b" else gap, val_loss=loss)
        for one, loss in zip(decisions, losses or [3.0] * len(decisions), strict=True)
    ]


@pytest.mark.parametrize(
    ("until", "goes_on"),
    [("matched", "ub"), ("undecided", "b"), ("published", "b"), ("max_layers", "mub")],
)
def test_another_round_follows_until_good_enough_or_as_deep_as_allowed(until: Any, goes_on: str) -> None:
    grow = Grow(until=until)
    assert continues([], grow, 3)
    assert "".join(one for one in "mub" if continues(rounds(one), grow, 3)) == goes_on
    assert not continues(rounds("bbb"), grow, 3)
    assert not continues(rounds("b"), None, 1)


def test_the_published_criterion_is_the_gap_alone() -> None:
    close = rounds("u", gap=0.005)  # within the tolerance
    assert continues(close, Grow(until="published"), 3)
    assert not continues(rounds("u", gap=0.0), Grow(until="published"), 3)


def test_the_result_is_the_shallowest_good_round_else_the_best_loss() -> None:
    def best(decisions: str, losses: list[float], until: Any = "matched") -> int:
        results = rounds(decisions, losses)
        return results.index(best_round(results, Grow(until=until)))

    assert best("bmm", [3.0, 2.9, 2.8]) == 1
    assert best("bum", [3.0, 2.9, 2.8]) == 2
    assert best("bum", [3.0, 2.9, 2.8], "undecided") == 1
    assert best("bum", [3.0, 2.9, 2.8], "published") == 1
    assert best("bmm", [3.0, 2.9, 2.8], "max_layers") == 1
    assert best("bbb", [3.0, 2.9, 3.3]) == 1


def test_rounds_are_tracked_and_belong_to_one_request(
    text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    more: dict[str, Any] = {
        "train": {"length": "2 steps", "batch": "2 sequences", "sequence_length": 16},
        "rounds": {"by": 1, "until": "max_layers", "max_layers": 2},
    }
    _, rounds = grow(
        reference_folder,
        tmp_path / "data",
        tmp_path / "out",
        inherit={"layers": 1, "choose": "first"},
        track="tensorboard",
        **more,
    )
    said = caplog.text
    for found in rounds:
        assert list((tmp_path / "out" / found.folder / "tensorboard").iterdir())
        assert f"round {found.folder}: validation loss {found.val_loss:.4f}, gap {found.gap:+.4f}" in said
    with pytest.raises(InputError, match=r"another training: inherit\.layers \(1 there, 2 here\)"):
        grow(reference_folder, tmp_path / "data", tmp_path / "out", inherit={"layers": 2, "choose": "first"}, **more)
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another process is at work"):
        grow(reference_folder, tmp_path / "data", tmp_path / "out", inherit={"layers": 1, "choose": "first"}, **more)
    with pytest.raises(InputError, match="there is no 'mlflow'"):
        grow(
            reference_folder,
            tmp_path / "data",
            tmp_path / "other",
            inherit={"layers": 1, "choose": "first"},
            track="mlflow",
            **more,
        )
