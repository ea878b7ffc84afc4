"""A finished result is success again, and a damaged file of ours is named with the remedy."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Said, prepare_words, tiny_recipe
from inheritune.cli import main

# what is finished


def test_a_preparation_that_is_complete_is_success_again(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    assert said(prepare_words(text, reference_folder, out))[0] == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    # as a kill leaves it that comes between the last step and the tidying up
    (tmp_path / ".data.work").mkdir()
    assert main([str(word) for word in prepare_words(text, reference_folder, out) if word != "--quiet"]) == 0
    assert "is complete already" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", "900 tokens"], "size (None there, 900 tokens here)"),
        (["--seed", "2"], "seed (1 there, 2 here)"),
        (["--data.filters=[gopher_quality]"], "filters"),
    ],
)
def test_a_folder_of_another_preparation_says_what_differs(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    out = tmp_path / "data"
    assert said(prepare_words(text, reference_folder, out))[0] == 0
    status, lines = said(prepare_words(text, reference_folder, out, *more))
    assert (status, len(lines)) == (2, 1)
    assert "holds data of another request: " in lines[0]
    assert words in lines[0]
    assert lines[0].endswith("give another folder, or remove it")


def test_a_preparation_of_text_that_has_changed_is_not_taken_for_finished(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(text, tmp_path / "text"))
    assert said(prepare_words(own, reference_folder, tmp_path / "data"))[0] == 0
    (own / "new.txt").write_text("one more document\n" * 9, encoding="utf-8")
    status, lines = said(prepare_words(own, reference_folder, tmp_path / "data"))
    assert status == 2
    assert "files with text were changed since" in lines[0]


def test_a_recipes_data_that_is_complete_is_success_again(
    said: Said, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    command: list[str | Path] = ["prepare", recipe, "--out", tmp_path / "data", "--quiet"]
    assert said(command)[0] == 0
    assert said(command) == (0, [])
    status, lines = said([*command, "--seed=5"])
    assert status == 2
    assert "--seed does not go with this" in lines[0]
    status, lines = said([*command, "--data.seed=5"])
    assert status == 2
    assert "seed (1 there, 5 here)" in lines[0]


def test_token_files_that_are_adopted_already_are_success_again(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path
) -> None:
    assert said(prepare_words(text, reference_folder, tmp_path / "data", "--nanogpt", str(tmp_path / "nano")))[0] == 0
    words: list[str | Path] = [
        "prepare",
        tmp_path / "nano",
        "--tokenizer",
        reference_folder,
        "--dtype",
        "uint16",
        "--quiet",
    ]
    assert said([*words, "--out", tmp_path / "own"]) == (0, [])
    assert said([*words, "--out", tmp_path / "own"]) == (0, [])
    status, lines = said([*words, "--out", tmp_path / "data"])
    assert status == 2
    assert "holds data of another request" in lines[0]


# our own files


@pytest.fixture(scope="module")
def finished(text: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, whose blocks were chosen by a measure; its recipe stands beside it."""
    place = tmp_path_factory.mktemp("finished")
    tree = tiny_recipe(text, reference_folder)
    tree |= {"inherit": {"layers": 2, "choose": "rank"}, "grow": None, "controls": []}
    tree["train"]["length"] = "2 steps"
    (place / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["run", str(place / "recipe.yaml"), "--out", str(place / "run"), "--quiet"]) == 0
    return place


DAMAGE = [
    ("manifest.json", "[]"),
    ("manifest.json", '{"starts": {}}'),
    ("manifest.json", "{}"),
    ("summary.json", '{"finished": true}'),
    ("summary.json", "[]"),
    ("summary.json", '{"finished": true, "result": 5}'),
    ("selection.json", "{}"),
    ("selection.json", "[]"),
    ("reference/evaluation.json", "{}"),
    ("reference/evaluation.json", "null"),
    ("rounds/1-2layers/evaluation.json", "{}"),
    ("rounds/1-2layers/evaluation.json", "[]"),
    ("rounds/1-2layers/training.json", "{}"),
    ("rounds/1-2layers/training.json", "not JSON"),
    ("data/manifest.json", "[]"),
    ("data/manifest.json", "{}"),
    ("recipe.yaml", "[]"),
    ("recipe.yaml", "2024-13-45"),
]


@pytest.mark.long
@pytest.mark.parametrize(("file", "content"), DAMAGE)
@pytest.mark.parametrize("command", ["run", "report"])
def test_a_damaged_file_of_a_run_is_named_with_the_remedy(
    said: Said, finished: Path, tmp_path: Path, file: str, content: str, command: str
) -> None:
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    (run / file).write_text(content, encoding="utf-8")
    if not file.startswith("summary"):
        (run / "summary.json").unlink()
    if file.endswith("training.json"):
        (run / file).with_name("evaluation.json").unlink()
    words: list[str | Path] = ["run", finished / "recipe.yaml", "--out", run, "--quiet"]
    status, lines = said(words if command == "run" else ["report", run])
    if command == "report" and status == 0:  # it does not need this file
        return
    assert (status, len(lines)) == (2, 1), lines
    assert file in lines[0] or (command, file) == ("run", "recipe.yaml"), lines
    assert ";" in lines[0]


def test_a_request_that_is_no_mapping_is_named(said: Said, text: Path, reference_folder: Path, tmp_path: Path) -> None:
    assert said(prepare_words(text, reference_folder, tmp_path / "data"))[0] == 0
    out = tmp_path / "out"
    out.mkdir()
    for content in ("[]", "5", "{"):
        (out / "request.json").write_text(content, encoding="utf-8")
        words: list[str | Path] = ["train", reference_folder, out, "--data", tmp_path / "data", "--length", "2 steps"]
        status, lines = said([*words, "--sequence-length", "16", "--batch", "4 sequences", "--quiet"])
        assert status == 2
        assert lines == [
            f"{out / 'request.json'}: is damaged, so that nothing says what is trained here; give another folder"
        ]
