"""Folders of results: what belongs to a request, what may differ when it is resumed, and one job at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import heard, read_json, tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment.folders import asked, begun, check_request, identity, opened
from inheritune.recipe import Recipe, Training
from inheritune.runtime import Runtime

RUNTIME = Runtime("cpu", 1)


def recipe(text: Path, **train: Any) -> Recipe:
    tree = tiny_recipe(text)
    return Recipe.model_validate(tree | {"train": tree["train"] | train})


def start(folder: Path, given: Recipe, check: Any = lambda: "checked", runtime: Runtime = RUNTIME) -> list[str]:
    """Open the folder and leave it again; what was warned of."""
    lines: list[str] = []
    with (
        heard(lines.append),
        opened(folder, "recipe.yaml", given, ("train.checkpoint", "hardware"), check, runtime) as answer,
    ):
        assert answer == "checked"
    return lines


def test_a_folder_keeps_its_recipe_and_every_start(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(out, recipe(text)) == []
    assert Recipe.model_validate(yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))) == recipe(text)
    assert start(out, recipe(text, checkpoint={"every": "5 steps"})) == []
    assert "5 steps" in (out / "recipe.yaml").read_text(encoding="utf-8")
    (line,) = start(out, recipe(text), runtime=Runtime("cpu", 2))
    assert line.startswith("threads")
    assert line.endswith("the result may differ from an uninterrupted one's in the last bits")
    assert read_json(out / "manifest.json")


def test_another_recipe_is_refused_before_it_is_checked(text: Path, tmp_path: Path) -> None:
    start(tmp_path / "out", recipe(text))
    before = (tmp_path / "out" / "recipe.yaml").read_bytes()

    def check() -> None:
        raise AssertionError

    words = (
        r"out: belongs to another recipe: train\.length \(10 steps there, 11 steps here\); give another --out, or the"
    )
    with pytest.raises(InputError, match=words):
        start(tmp_path / "out", recipe(text, length="11 steps"), check)
    assert (tmp_path / "out" / "recipe.yaml").read_bytes() == before


def test_a_recipe_with_mistakes_leaves_nothing(text: Path, tmp_path: Path) -> None:
    def check() -> None:
        raise InputError("data.sources", "is wrong", "mend it")

    with pytest.raises(InputError, match=r"data\.sources: is wrong"):
        start(tmp_path / "out", recipe(text), check)
    assert not (tmp_path / "out").exists()


def test_one_job_at_a_time_and_the_folder_is_looked_at_again_inside(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def another_begins() -> str:
        start(out, recipe(text, length="11 steps"))
        return "checked"

    with pytest.raises(InputError, match=r"train\.length \(11 steps there, 10 steps here\)"):
        start(out, recipe(text), another_begins)
    held = opened(out, "recipe.yaml", recipe(text, length="11 steps"), (), lambda: None, RUNTIME)
    with held, pytest.raises(InputError, match="another process is at work in it"):
        start(out, recipe(text, length="11 steps"))
    start(out, recipe(text, length="11 steps"))  # given back


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda out: out.write_text("x"), "out: is a file; give another --out"),
        (lambda out: (out.mkdir(), (out / "mine.txt").write_text("x")), "is not empty and not a run's folder"),
        (
            lambda out: (out.mkdir(), (out / "recipe.yaml").write_text("{")),
            r"recipe\.yaml: is damaged, .*; give another",
        ),
        (lambda out: (out.mkdir(), (out / "recipe.yaml").write_text("[" * 9999)), r"recipe\.yaml:1: more than 50"),
    ],
)
def test_what_is_no_folder_of_a_run(text: Path, tmp_path: Path, made: Any, words: str) -> None:
    made(tmp_path / "out")
    with pytest.raises(InputError, match=words):
        start(tmp_path / "out", recipe(text))


def test_a_request_is_the_same_however_it_is_executed(tmp_path: Path) -> None:
    def request(**more: Any) -> dict[str, Any]:
        return {"model": "x", "seed": 1} | asked(Training.model_validate({"length": "3 steps"} | more))

    whole = request() | {"data": {"train": "sum"}}
    with begun(tmp_path / "out", whole, RUNTIME):
        assert read_json(tmp_path / "out" / "request.json") == whole
    for more in ({"micro_batch": 1}, {"checkpoint": {"every": "1 steps"}}):
        check_request(tmp_path / "out", request(**more))
    with pytest.raises(InputError, match=r"another training: train\.length \(3 steps there, 4 steps here\)"):
        check_request(tmp_path / "out", request(length="4 steps"))
    with pytest.raises(InputError, match=r"another training: data\.train \(sum there, other here\)"):
        check_request(tmp_path / "out", request() | {"data": {"train": "other"}})
    check_request(tmp_path / "elsewhere", request())


def test_a_loaded_model_is_known_by_its_weights() -> None:
    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert identity(one) == identity(one) != identity(other)  # type: ignore[arg-type]
    other.load_state_dict(one.state_dict())
    assert identity(one) == identity(other)  # type: ignore[arg-type]
    assert identity("models/small/") == identity(Path("models/small")) == "models/small"
