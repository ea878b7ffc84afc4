"""Wrong input: exit status 2, a line that names place and remedy, no traceback; other faults: status 1, a line too."""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from inheritune.cli import main
from processes import fresh_program, program

Prepare = Callable[[Path, dict[str, Any], Path], list[str]]


def _copy(reference: Path, place: Path) -> Path:
    return Path(shutil.copytree(reference, place / "model"))


def truncated(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    file = _copy(reference, place) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    tree["reference"] = str(place / "model")
    return ["model.safetensors", "damaged or cut short"]


def no_weights(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    (_copy(reference, place) / "model.safetensors").unlink()
    tree["reference"] = str(place / "model")
    return ["no weights"]


def no_tokenizer(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    for file in _copy(reference, place).glob("tokenizer*"):
        file.unlink()
    tree["reference"] = str(place / "model")
    return ["reference.tokenizer"]


def other_tokenizer(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    from inheritune.data import train_tokenizer

    train_tokenizer((" ".join(f"w{n}x{n * 7919}" for n in range(900)) for _ in range(3)), 600).save_pretrained(
        place / "tok"
    )
    tree["reference"] = {"path": str(reference), "tokenizer": str(place / "tok")}
    return ["tokenizer and model do not fit", "reach 599, the model has 300"]


def blocks_that_would_change(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = {"model_type": "diffllama", "num_hidden_layers": 3, "max_position_embeddings": 64, **sizes}
    tree["reference"] = {"train": {"model": model, "tokenizer": {"vocabulary": 300}}}
    tree["inherit"] = {"layers": 1, "choose": "last"}
    return ["block 2: would change at place 0: self_attn.lambda_init", "choose: first"]


def another_recipes_folder(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
    (place / "out").mkdir()
    (place / "out" / "recipe.yaml").write_text("seed: 3\n")
    return ["belongs to another recipe"]


def edit(*path: str, value: Any, words: list[str]) -> Prepare:
    """A recipe with one key set."""

    def change(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
        node = tree
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return words

    return change


def text_of(content: str, words: list[str]) -> Prepare:
    def change(place: Path, tree: dict[str, Any], reference: Path) -> list[str]:
        (place / "text").mkdir()
        (place / "text" / "a.txt").write_text(content)
        tree["data"]["sources"] = [{"path": str(place / "text")}]
        return words

    return change


CASES: dict[str, Prepare] = {
    "unknown key": edit("train", "lenght", value="3 steps", words=["unknown key 'train.lenght'", "did you mean 'length'"]),
    "wrong type": edit("train", "sequence_length", value="long", words=["train.sequence_length", "'long'", "integer"]),
    "negative number": edit("train", "micro_batch", value=-2, words=["train.micro_batch", "-2"]),
    "impossible number": edit("train", "optimizer", value={"weight_decay": float("nan")}, words=["weight_decay", "finite"]),
    "no such folder": edit("reference", value="./no/such/folder", words=["./no/such/folder", "no such model"]),
    "no such gguf": edit("reference", value="no-such.gguf", words=["no-such.gguf", "no such file"]),
    "no such hub id": edit("reference", value="nobody/nothing", words=["nobody/nothing", "local cache"]),
    "no such text": edit("data", "sources", value=[{"path": "no/such/text"}], words=["no/such/text", "no such file or folder"]),
    "empty data": text_of("", ["every file is empty"]),
    "blank data": text_of(" \n \n", ["every file is empty"]),
    "too small for validation": text_of("just a few words\n", ["data.validation", "600 tokens asked for"]),
    "validation below a sequence": edit("data", "validation", value="10 tokens", words=["are less than a sequence (16)"]),
    "training below a sequence": edit("data", "size", value="10 tokens", words=["training text: 10 tokens do not fill"]),
    "training below a step": edit("train", "length", value="60 tokens", words=["train.length", "less than one step of 64"]),
    "more layers than there are": edit("inherit", "layers", value=5, words=["5 blocks asked for, the reference has 4"]),
    "growth beyond the reference": edit("grow", "max_layers", value=9, words=["grow.max_layers", "the reference has 4"]),
    "block out of range": edit("inherit", value={"layers": [0, 4]}, words=["inherit"]),
    "longer than the positions": edit("train", "sequence_length", value=65, words=["64 positions", "give at most 64"]),
    "blocks that would change": blocks_that_would_change,
    "truncated safetensors": truncated,
    "no weights": no_weights,
    "no tokenizer": no_tokenizer,
    "tokenizer that does not fit": other_tokenizer,
    "a folder of another recipe": another_recipes_folder,
    "not a decoder": edit("reference", value={"train": {"model": {"model_type": "bert"}, "tokenizer": {"vocabulary": 300}}}, words=["bert is an encoder"]),
    "unknown architecture": edit(
        "reference", value={"train": {"model": {"model_type": "gpt-2"}, "tokenizer": {"vocabulary": 300}}}, words=["gpt-2", "gpt2"]
    ),
    "unknown field": edit(
        "reference",
        value={"train": {"model": {"model_type": "gpt2", "n_layers": 3}, "tokenizer": {"vocabulary": 300}}},
        words=["no field 'n_layers'", "n_layer"],
    ),
    "heads that do not divide": edit(
        "reference",
        value={"train": {"model": {"model_type": "gpt2", "n_layer": 3, "n_embd": 15, "n_head": 2}, "tokenizer": {"vocabulary": 300}}},
        words=["gpt2", "divisible"],
    ),
}  # fmt: skip


def check(lines: list[str], words: list[str]) -> None:
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert ";" in lines[0], "no remedy"
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("case", CASES)
def test_wrong_input(
    case: str, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny_recipe(text, reference_folder)
    words = CASES[case](tmp_path, tree, reference_folder)
    began = time.process_time()
    status = main(["run", str(write_recipe(tree)), "--out", str(tmp_path / "out"), "--quiet"])
    took = time.process_time() - began
    said = capsys.readouterr()
    assert status == 2, said.err
    assert took < 10  # with the imports, for the first of them
    assert said.out == ""
    check(said.err.splitlines(), words)


# What is found first and last: in the recipe alone, and in the weights.
FOUND_AT = ["unknown key", "truncated safetensors"]


@pytest.mark.long
@pytest.mark.parametrize("case", FOUND_AT)
def test_wrong_input_ends_the_process_within_seconds(
    case: str, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = tiny_recipe(text, reference_folder)
    words = CASES[case](tmp_path, tree, reference_folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = fresh_program("run", write_recipe(tree), "--out", tmp_path / "out", "--quiet")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # whatever else the machine does
    assert done.returncode == 2, done.stderr
    check(done.stderr.splitlines(), words)
    print(f"{case}: {took:.1f} s")
    # alone on the machine each takes less than 5 seconds, of which imports are nearly all
    assert took < 10


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run"], "Missing argument"),
        (["run", "no.yaml"], "no.yaml: no such recipe"),
        (["run", "no.yaml", "--seed"], "no such option: --seed"),
        (["run", "no.yaml", "more"], "unexpected word 'more'"),
        (["fly"], "No such command 'fly'"),
        (["inherit", "nobody/nothing", "out", "--layers", "none"], "inherit: layers: got 'none'"),
        (["inherit", "nobody/nothing", "out", "--layers", "3-1"], "reversed"),
        (["inherit", "nobody/nothing", "out", "--choose", "best"], "choose"),
        (["inherit", "nobody/nothing", "out"], "local cache"),
        (["new", "nobody/nothing", "out.yaml"], "local cache"),
        (["prepare", "x", "--out", "o", "--tokenizer", "nobody/nothing", "--size", "9"], "a size needs its unit"),
        (["prepare", "no-such-text", "--out", "o", "--tokenizer", "nobody/nothing"], "no such file or folder"),
        (["train", "m", "o", "--data", "nowhere", "--length", "3 steps"], "no prepared data there"),
        (["train", "m", "o", "--data", "nowhere", "--length", "3"], "a size needs its unit"),
        (["train", "m", "o", "--data", "d", "--length", "3 steps", "--optimiser.x=1"], "unknown key 'optimiser'"),
    ],
)
def test_wrong_words(words: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert main(words) == 2
    finally:
        os.chdir(before)
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_inherit_does_not_write_over_anything(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["inherit", str(reference_folder), str(tmp_path), "--layers", "2"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.long
def test_a_full_disk_ends_with_status_1_and_the_last_checkpoint_is_good(
    text: Path, write_recipe: Any, tmp_path: Path
) -> None:
    """A real full disk: a file system in memory, as small as is needed to fail in the middle of the reference."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        tree = tiny_recipe(text)
        tree["train"]["checkpoint"] = {"every": "1 steps", "keep": 100}
        recipe = write_recipe(tree)
        done = program("run", recipe, "--out", disk / "run", "--quiet")
        assert done.returncode == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "space" in done.stderr or "disk is full" in done.stderr
        from inheritune.training import fault_of, list_checkpoints

        checkpoints = disk / "run" / "reference" / "checkpoints"
        steps = list_checkpoints(checkpoints)
        assert steps
        for step in steps:
            assert fault_of(checkpoints / f"step-{step:09d}") is None
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        went_on = program("run", recipe, "--out", disk / "run")
        assert went_on.returncode == 0, went_on.stderr
        assert f"resuming from step {steps[-1]}" in went_on.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_fault_of_a_library_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr("yaml.compose", broken)
    (tmp_path / "any.yaml").write_text("seed: 1\n")
    assert main(["run", str(tmp_path / "any.yaml")]) == 1
    said = capsys.readouterr().err
    assert "RuntimeError: something odd" in said
    assert len(said.splitlines()) == 1


def test_an_interruption_is_not_lost_where_exceptions_are() -> None:
    """A signal that comes while an object is being collected ends the program all the same."""
    script = """
import os, signal, sys, time
from inheritune.cli import entry

class Collected:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

def work(arguments):
    collected = Collected()
    del collected
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        return 130
    return 0

entry._run = work
sys.exit(entry.main([]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (130, "SIGTERM: stopping; a second signal ends at once\n")


@pytest.mark.long
@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_closed_descriptor_is_no_file_of_ours(closed: str, tmp_path: Path) -> None:
    """Errors do not go to standard output where there is no standard error, nor into a file that is opened later."""
    script = f"""
import os, sys
for number in map(int, "{closed}".split()):
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python has it from the start then
from inheritune.cli import main
status = main(["run", "nowhere.yaml"])
opened = os.open("{tmp_path}/file", os.O_CREAT)
os._exit(status if opened > 2 else 99)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == (0 if "2" in closed else 1)
