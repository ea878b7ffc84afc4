"""The command: what it prints, in how much room, and how it says what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from inheritune.cli import main


@pytest.fixture
def recipe(text: Path, reference_folder: Path, write_recipe: Any) -> str:
    return str(write_recipe(tiny_recipe(text, reference_folder)))


@pytest.mark.long
@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_into_a_terminal(
    width: int, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = ["--fit", "24GB", "--within", "12h", "--train.length=1000 tokens"]
    assert main(["plan", recipe, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for said in (
        "round 2 *",
        "Memory of a device",
        "RTX 4090",
        "45%-65%",
        "Peaks are of bfloat16 on A6000",
        "Rounded down: 1,000 tokens",
        "What fits into 92% of 24.0 GB",
        "Not counted",
    ):
        assert said in text


def test_as_json_with_overrides(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "A100", "--price", "A100=1", "--gpus", "2", "--inherit.layers=3", "--grow=null", "--json"]
    assert main(["plan", recipe, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["blocks"] for each in found["trainings"]] == [4, 3, 3]
    (row,) = found["devices"]
    assert (row["name"], row["devices"], row["price_per_hour"]) == ("A100", 2, 1.0)
    assert row["price"]["most"][0] == 2 * row["hours"]["most"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "B300"], "no 'B300' in the table"),
        (["--device", "A10"], "did you mean A100? known are A6000"),
        (["--price", "A100"], "is no price"),
        (["--price", "A100=-1"], "is no price"),
        (["--fit", "24"], "is no amount"),
        (["--fit", "24h"], "is no amount"),
        (["--within", "0h"], "is no amount"),
        (["--rate", "/nowhere.json"], "cannot be read"),
        (["--train.lenght=1"], "unknown key 'train.lenght'"),
        (["--reference=/nowhere"], "no such model"),
        (["--reference=org/name"], "not in the local cache"),
        (["--inherit.layers=9"], "the reference has 4"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
