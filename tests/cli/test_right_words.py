"""What is said of bad input, damaged files and outputs: its place, its remedy, and whose fault it is (the status)."""

import errno
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Said, prepare_words, tiny_recipe
from inheritune.cli import entry
from inheritune.errors import InputError
from inheritune.inheritance import free_output, inherit

# two at once


def test_of_two_that_make_the_same_output_one_succeeds_and_the_other_says_so(
    reference_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    inside, done = threading.Event(), threading.Event()

    def first() -> None:
        with free_output(out) as place:
            inside.set()
            done.wait(20)
            place.mkdir()
            (place / "mine").touch()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(20)
    try:
        with pytest.raises(InputError, match="another process is at work in it; wait for that one"):
            inherit(reference_folder, 2, out=out)
    finally:
        done.set()
        thread.join()
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(InputError, match="exists already"):
        inherit(reference_folder, 2, out=out)


def test_many_at_once_leave_one_result(reference_folder: Path, tmp_path: Path) -> None:
    out, outcomes = tmp_path / "out", list[str]()
    start = threading.Barrier(6)

    def one(layers: int) -> None:
        start.wait()
        try:
            with free_output(out) as place:
                place.mkdir()
                (place / str(layers)).touch()
            outcomes.append("made")
        except InputError as error:
            outcomes.append(error.problems[0].what)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("made") == 1
    assert set(outcomes) <= {"made", "exists already", "another process is at work in it"}
    assert len(list(out.iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", ["inherit", "analyze", "evaluate", "nanogpt"])
def test_every_command_that_writes_a_folder_keeps_to_the_lock(
    said: Said, command: str, text: Path, reference_folder: Path, tmp_path: Path
) -> None:
    import fcntl

    out = tmp_path / "out"
    words: dict[str, list[str | Path]] = {
        "inherit": ["inherit", reference_folder, out],
        "analyze": ["analyze", reference_folder, "--text", text, "--out", out, "--length", "16"],
        "evaluate": ["evaluate", reference_folder, "--text", text, "--out", out, "--sequence-length", "16"],
        "nanogpt": prepare_words(text, reference_folder, tmp_path / "data", "--nanogpt", str(out)),
    }
    with (tmp_path / ".out.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, lines = said(words[command])
    assert status == 2
    assert lines == [f"{out}: another process is at work in it; wait for that one, or give another folder"]
    assert not out.exists()


# whose fault it is


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (errno.ENAMETOOLONG, 2, "give a shorter name"),
        (errno.EACCES, 2, "the permission to use this one"),
        (errno.EROFS, 1, "mend it and run the same command again"),
        (errno.ENOTDIR, 2, "check the path"),
        (errno.ENOSPC, 1, "the disk is full; make room, then run the same command again"),
        (errno.EIO, 1, "mend it and run the same command again"),
    ],
)
@pytest.mark.parametrize("command", ["run", "push"])
def test_errors_of_the_system(
    said: Said, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, number: int, status: int, words: str, command: str,
) -> None:  # fmt: skip
    """A run cannot make its folder; the folder to be pushed cannot be listed."""

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    asked: list[str | Path] = ["push", reference_folder, "me/model"]
    if command == "run":
        asked = ["run", write_recipe(tiny_recipe(text, reference_folder)), "--out", tmp_path / "run"]
    monkeypatch.setattr(*((os, "mkdir") if command == "run" else (Path, "rglob")), broken)
    found, lines = said(asked)
    assert found == status
    assert lines[0].startswith("/some/place: ")
    assert words in lines[0]
    assert ("what was finished" in lines[0]) == (command == "run" and number in (errno.ENOSPC, errno.EIO, errno.EROFS))


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["run", "any"], "what was finished is kept: run the same command again to resume"),
        (["prepare", "any.yaml", "--out", "out"], "what was finished is kept: run the same command again to resume"),
        (["run", "any", "--dry-run"], "nothing half-made is kept: if there is no result, run the same command again"),
        (["inherit", "any", "out"], "nothing half-made is kept: if there is no result, run the same command again"),
        (["push", "any", "me/model"], "nothing half-made is kept: if there is no result, run the same command again"),
    ],
)
def test_an_interruption_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], kept: str
) -> None:
    real = os.stat

    def interrupted(path: Any, *more: Any, **named: Any) -> os.stat_result:
        if str(path) in ("any", "any.yaml"):
            raise KeyboardInterrupt
        return real(path, *more, **named)

    monkeypatch.setattr(os, "stat", interrupted)
    assert entry.main(words) == 130
    assert capsys.readouterr().err == f"interrupted; {kept}\n"


@pytest.mark.parametrize("name", ["x" * 250, "x" * 300, "o" * 5000, os.fsdecode(b"out\xff")])
@pytest.mark.parametrize("command", ["inherit", "run", "prepare", "evaluate", "analyze", "new"])
def test_outputs_with_names_that_cannot_be(
    said: Said, command: str, name: str, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    out = tmp_path / name
    words: dict[str, list[str | Path]] = {
        "inherit": ["inherit", reference_folder, out],
        "run": ["run", write_recipe(tiny_recipe(text, reference_folder)), "--out", out],
        "prepare": prepare_words(text, reference_folder, out),
        "evaluate": ["evaluate", reference_folder, "--text", text, "--out", out, "--sequence-length", "16"],
        "analyze": ["analyze", reference_folder, "--text", text, "--out", out, "--length", "16"],
        "new": ["new", reference_folder, out],
    }
    before = set(tmp_path.iterdir())
    status, lines = said(words[command])
    assert (status, len(lines)) == (2, 1), lines
    assert set(tmp_path.iterdir()) == before


def test_file_names_that_are_not_utf8_are_read(said: Said, text: Path, reference_folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(text, tmp_path / "text"))
    (own / "000.txt").rename(own / os.fsdecode(b"caf\xe9.txt"))
    assert said(prepare_words(own, reference_folder, tmp_path / "data")) == (0, [])
    here = tmp_path / os.fsdecode(b"t\xe9xt")
    own.rename(here)
    status, lines = said(prepare_words(here, reference_folder, tmp_path / "other"))
    assert status == 2
    assert "not UTF-8; rename what has this name" in lines[0]
    status, lines = said(["inherit", tmp_path / os.fsdecode(b"mod\xff"), tmp_path / "small"])
    assert status == 2
    assert "not UTF-8" in lines[0]


def test_a_path_with_nul_in_python(reference_folder: Path) -> None:
    with pytest.raises(InputError, match="NUL"):
        inherit(reference_folder, 2, out="a\0b")


# models


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_weights_that_are_no_numbers_are_not_inherited(
    said: Said, reference_folder: Path, tmp_path: Path, dtype: str | None
) -> None:
    model = Path(shutil.copytree(reference_folder, tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    words: list[str | Path] = ["inherit", model, tmp_path / "out", *(["--dtype", dtype] if dtype else [])]
    status, lines = said([*words, "--layers", "2"])
    assert status == 2
    assert lines[0].startswith(f"{model}: 1 tensors hold NaN, which is no number (model.layers.1.mlp.up_proj.weight); ")
    assert not (tmp_path / "out").exists()
    assert said([*words, "--layers", "1"]) == (0, [])  # which takes block 0


def test_a_refused_pickle_does_not_advise_to_trust_it(said: Said, reference_folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    model = Path(shutil.copytree(reference_folder, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, model / "pytorch_model.bin")
    for content in (None, pickle.dumps(Evil())):
        if content is not None:
            (model / "pytorch_model.bin").write_bytes(content)
        status, lines = said(["inherit", model, tmp_path / "out"])
        assert status == 2
        assert not (tmp_path / "executed").exists()
        assert "weights_only" not in lines[0]
        assert "trust" not in lines[0].partition(";")[0]
        assert "its weights are " in lines[0]
        assert "pickle" in lines[0]
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert (
        "refused: its weights are a pickle with more than tensors in it (os.system); do not load it"
        in said(["inherit", model, tmp_path / "out"])[1][0]
    )


def first_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"][0] = ["no such", "entry"]


def broken_pattern(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "((["}, "behavior": "Isolated", "invert": False}


def negative_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"][next(iter(content["model"]["vocab"]))] = -1


def same_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"][content["model"]["merges"][0][0]] = 7


def unknown_model(content: dict[str, Any]) -> None:
    content["model"]["type"] = "none that there is"


def huge_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"][next(iter(content["model"]["vocab"]))] = 2**31


def panic(content: dict[str, Any]) -> None:
    """The library in Rust breaks off at some texts, with what is no Exception."""
    content["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "aaaaaaaa"}


BROKEN = [first_merge, broken_pattern, negative_id, same_id, unknown_model, huge_id, panic]


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_tokenizer_is_wrong_input(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    model = Path(shutil.copytree(reference_folder, tmp_path / "model"))
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    damage(content)
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    status, lines = said(prepare_words(text, model, tmp_path / "data"))
    assert (status, len(lines)) == (2, 1)
    assert "tokenizer" in lines[0]
    assert "fault" not in lines[0]


@pytest.mark.parametrize("settings", [{"model_max_length": "long"}, {"eos_token": 5}, {"tokenizer_class": 5}])
def test_wrong_settings_of_a_tokenizer(
    said: Said, text: Path, reference_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    model = Path(shutil.copytree(reference_folder, tmp_path / "model"))
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    status, lines = said(prepare_words(text, model, tmp_path / "data"))
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith(f"{model}: cannot be loaded: ")


@pytest.mark.parametrize("number", ["0", "1000000000", "99999999999999999999"])
def test_numbers_of_threads_that_no_machine_has(
    said: Said, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, number: str
) -> None:
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    status, lines = said(["run", recipe, "--out", tmp_path / "run", f"--hardware.threads={number}"])
    assert status == 2
    assert lines[0].startswith(f"command line: hardware.threads: got {number}: ")
    assert said(["bench", "--threads", number])[0] == 2


def test_an_absurd_number_of_threads_in_the_environment(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10**6)
    status, lines = said(["bench"])
    assert (status, lines) == (2, ["environment: OMP_NUM_THREADS=1000000; set a number from 1 to 1024, or unset it"])


def test_a_place_for_figures_is_checked_before_they_are_measured(said: Said, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    for name, words in (
        (tmp_path, "exists already; give another file"), (tmp_path / "mine.yaml", "exists already; give another file"),
        (tmp_path / ("x" * 300), "give one of at most 240"), (tmp_path / "mine.yaml" / "x", "give another place, or remove what is there"),
    ):  # fmt: skip
        status, lines = said(["bench", "--out", name])
        assert status == 2
        assert words in lines[0]
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize("place", ["", "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        ["inherit", "MODEL", "OUT", "--choose", "auto", "--text", "PLACE"], ["inherit", "PLACE", "OUT"],
        ["evaluate", "PLACE", "--text", "TEXT"], ["evaluate", "MODEL", "--text", "PLACE"], ["bench", "--model", "PLACE"],
        ["analyze", "MODEL", "--length", "16", "--text", "PLACE"], ["new", "PLACE", "OUT"],
        ["prepare", "TEXT", "--tokenizer", "PLACE", "--out", "OUT"], ["prepare", "PLACE", "--tokenizer", "MODEL", "--out", "OUT"],
        ["train", "PLACE", "OUT", "--data", "DATA", "--length", "2 steps", "--sequence-length", "16", "--batch", "4 sequences"],
    ],
)  # fmt: skip
def test_a_place_that_can_be_none(
    said: Said, text: Path, reference_folder: Path, data_folder: Path, tmp_path: Path, place: str, words: list[str]
) -> None:
    given: dict[str, str | Path] = {"MODEL": reference_folder, "TEXT": text, "DATA": data_folder, "OUT": tmp_path / "o"}
    status, lines = said([{**given, "PLACE": place}.get(word, word) for word in words])
    assert (status, len(lines)) == (2, 1), lines
    assert repr(place) in lines[0]
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def data_folder(text: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    assert entry.main([str(word) for word in prepare_words(text, reference_folder, out)]) == 0
    return out


def test_the_folder_of_the_shell_is_no_output(
    said: Said, text: Path, reference_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    monkeypatch.chdir(tmp_path)
    for out in (".", "/", ""):
        status, lines = said(prepare_words(text, reference_folder, Path(out)))
        assert (status, len(lines)) == (2, 1)
        assert "exists already; give another folder" in lines[0]


@pytest.mark.parametrize("dtype", [2.5, "float33", 7, []])
def test_a_dtype_that_is_none(said: Said, reference_folder: Path, tmp_path: Path, dtype: Any) -> None:
    model = Path(shutil.copytree(reference_folder, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"dtype": dtype}), encoding="utf-8")
    status, lines = said(["inherit", model, tmp_path / "out"])
    assert status == 2, lines
    assert lines[0].startswith(f"{model}: cannot be loaded: ")


def test_an_error_that_takes_the_place_of_an_interruption_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A library's `finally` may fail when a signal comes before its first line, as one of transformers does."""
    recipe = tmp_path / "a.yaml"
    recipe.write_text("seed: 1\n")

    def interrupted(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("original_init_weights")

    monkeypatch.setattr("yaml.compose", interrupted)
    assert entry.main(["run", str(recipe)]) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
