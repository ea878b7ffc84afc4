"""Where weights come from and go to besides a plain folder: old files, code of their own, full disks, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import weights
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.inheritance import inherit, inherit_settings, write
from inheritune.recipe import Reference
from processes import program


def copied(reference: Path, folder: Path, *, without: str = "") -> Path:
    """A copy of a checkpoint, without files of a suffix."""
    folder.mkdir()
    for file in reference.iterdir():
        if file.suffix != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def check_prefix(target: Path, reference: Path, blocks: int) -> None:
    """The target's tensors are the reference's, byte for byte; blocks are counted."""
    ours, theirs = weights(target), weights(reference)
    assert ours == {name: theirs[name] for name in ours}
    assert {name.split(".")[2] for name in ours if ".layers." in name} == set(map(str, range(blocks)))


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "two files"])
def test_bin_files(shards: bool, reference_folder: Path, tmp_path: Path) -> None:
    folder = copied(reference_folder, tmp_path / "reference", without=".safetensors")
    tensors = AutoModelForCausalLM.from_pretrained(reference_folder).state_dict()
    if shards:
        names = sorted(tensors)
        parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, part in parts.items():
            torch.save({name: tensors[name] for name in part}, folder / file)
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    write(Reference(path=str(folder)), inherit_settings(2), tmp_path / "target")
    check_prefix(tmp_path / "target", reference_folder, 2)


def test_bin_files_with_code_in_them_are_refused(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(reference_folder, tmp_path / "reference", without=".safetensors")
    mark = tmp_path / "was-run"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    assert main(["inherit", str(folder), str(tmp_path / "out"), "--layers", "2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["reference"]


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

from .scaling import FACTOR


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits * FACTOR
        return found
"""


@pytest.fixture
def own_code(reference_folder: Path, tmp_path: Path) -> Path:
    """The reference as a model type of its own, with the code beside it."""
    folder = copied(reference_folder, tmp_path / "own")
    (folder / "own_model.py").write_text(CODE, encoding="utf-8")
    (folder / "scaling.py").write_text("FACTOR = 3.0\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    where = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"}
    config |= {"model_type": "own-llama", "architectures": ["OwnForCausalLM"], "auto_map": where}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", [None, torch.float64], ids=["bytes copied", "converted"])
def test_a_model_with_code_of_its_own(dtype: Any, own_code: Path, tmp_path: Path) -> None:
    """It travels with its code: the target's logits are the plain model's times what the code says."""
    with pytest.raises(InputError, match="trust_remote_code"):
        inherit(own_code, 2, out=tmp_path / "target")
    reference = Reference(path=str(own_code), trust_remote_code=True)
    write(reference, inherit_settings(2), tmp_path / "target", dtype=dtype)
    assert (tmp_path / "target" / "own_model.py").is_file()
    assert (tmp_path / "target" / "scaling.py").is_file()
    target = AutoModelForCausalLM.from_pretrained(tmp_path / "target", trust_remote_code=True, dtype="auto").eval()
    assert type(target).__name__ == "OwnForCausalLM"
    plain_config = json.loads((own_code / "config.json").read_text(encoding="utf-8"))
    plain_config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    del plain_config["auto_map"]
    (own_code / "config.json").write_text(json.dumps(plain_config), encoding="utf-8")
    plain = inherit(own_code, 2, dtype=dtype)
    tokens_BT = torch.arange(8)[None]
    assert torch.equal(target(tokens_BT).logits, plain(tokens_BT).logits * 3)


def test_settings_for_generation_that_contradict_each_other_travel(reference_folder: Path, tmp_path: Path) -> None:
    """A temperature without sampling is published with many models, and transformers refuses to save it."""
    folder = copied(reference_folder, tmp_path / "reference")
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 5], "max_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for place, dtype in (("copied", None), ("converted", torch.float64)):
        write(Reference(path=str(folder)), inherit_settings(2), tmp_path / place, dtype=dtype)
        found = json.loads((tmp_path / place / "generation_config.json").read_text(encoding="utf-8"))
        assert {name: found[name] for name in settings} == settings
        assert AutoModelForCausalLM.from_pretrained(tmp_path / place).generation_config.eos_token_id == [0, 5]


def test_without_a_tokenizer(
    reference_folder: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are written, and that there is no tokenizer is said; one from elsewhere can be named."""
    folder = copied(reference_folder, tmp_path / "reference")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert main(["inherit", str(folder), str(tmp_path / "bare"), "--layers", "2"]) == 0
    assert "no tokenizer there" in capsys.readouterr().err
    assert not list((tmp_path / "bare").glob("tokenizer*"))
    check_prefix(tmp_path / "bare", reference_folder, 2)
    words = ["inherit", str(folder), str(tmp_path / "named"), "--layers", "2", "--tokenizer", str(reference_folder)]
    assert main(words) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "named").get_vocab() == tokenizer.get_vocab()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, too small for a model."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    mounted = subprocess.run(mounting, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.parametrize(
    "how", [[], ["--dtype", "float64"], ["--submodules", "attention"]], ids=["copied", "converted", "drawn"]
)
def test_a_full_disk(
    how: list[str], small_disk: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inherit", str(reference_folder), str(small_disk / "out"), "--layers", "4", *how]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert "make room" in said
    assert list(small_disk.iterdir()) == []


def test_an_output_that_cannot_be_written(
    small_disk: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert main(["inherit", str(reference_folder), str(small_disk / "out"), "--layers", "2"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert "is not a folder that can be written" in said


def stop_at_the_second(number: signal.Signals) -> None:
    """Have the second tensor that is copied bring this signal."""
    from inheritune.arch import byte_copy

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    copy, calls = byte_copy._copy, iter(range(1, 99))

    def stopped(*words: Any) -> None:
        if next(calls) == 2:
            os.kill(os.getpid(), number)
            time.sleep(20)
        copy(*words)

    byte_copy._copy = stopped


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_the_copy(number: signal.Signals, reference_folder: Path, tmp_path: Path) -> None:
    words = ["inherit", str(reference_folder), str(tmp_path / "out"), "--layers", "0,2"]
    done = program(*words, first=partial(stop_at_the_second, number))
    assert done.returncode == (-9 if number is signal.SIGKILL else 130), done.stderr
    assert not (tmp_path / "out").exists()
    if number is not signal.SIGKILL:
        assert len(done.stderr.splitlines()) == 2, done.stderr  # at once, and at the end
        assert list(tmp_path.iterdir()) == []
        return
    done = program(*words)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert len(weights(tmp_path / "out")) == 21
