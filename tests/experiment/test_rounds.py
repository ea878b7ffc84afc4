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


def test_another_round_follows_until_matched_or_as_deep_as_allowed() -> None:
    assert continues([], Grow(), 3)
    assert continues([False], Grow(), 3)
    assert not continues([False, True], Grow(), 3)
    assert continues([False, True], Grow(until="max_layers"), 3)
    assert not continues([False, False, False], Grow(), 3)
    assert not continues([False], None, 1)


def test_the_result_is_the_shallowest_match_else_the_best_loss() -> None:
    def best(matched: list[bool], losses: list[float]) -> int:
        rounds = [RoundResult.model_construct(matched=a, val_loss=b) for a, b in zip(matched, losses, strict=True)]
        return rounds.index(best_round(rounds))

    assert best([False, True, True], [3.0, 2.9, 2.8]) == 1
    assert best([False, False, False], [3.0, 2.9, 3.3]) == 1


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
