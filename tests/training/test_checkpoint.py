"""Checkpoints: a copy of the moment, whole or not there; and what a disk does to them is said in one line."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.optim.optimizer import register_optimizer_step_post_hook

from conftest import heard, weights
from inheritune import runtime
from inheritune.cli import main
from inheritune.corpus import prepare
from inheritune.errors import RunError
from inheritune.runlog import read_metrics
from inheritune.training import checkpoint, fault_of, list_checkpoints
from inheritune.training.checkpoint import BEST, Checkpoints, TrainProgress, read_position, read_tensors, stored_shapes

PLACE = runtime.Runtime("cpu", 1)


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "model/a": torch.randn(5, 7),
        "model/turned": torch.randn(6, 4).T,
        "model/half": torch.randn(9).bfloat16(),
        "optimizer/a/step": torch.tensor(3.0),
        "random/0/cpu": torch.get_rng_state(),
        "model/counts": torch.arange(11),
        "model/flags": torch.tensor([True, False]),
    }


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def empty(like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}


def no_warning(line: str) -> None:
    raise AssertionError(line)


def held_up(gate: threading.Event) -> runtime.Runtime:
    """A process beside another one that has nothing to write before the event."""

    class Waits(runtime.Runtime):
        def gather(self, value: Any, group: Any = None) -> list[Any]:
            assert gate.wait(20)
            return super().gather(value, group)

    return Waits("cpu", 1)


def test_what_is_read_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    held, position = Checkpoints(tmp_path, 2, PLACE), TrainProgress(7, 1.5, 2.5, 3, 4)
    held.save(position, tensors())
    held.wait()
    with heard(no_warning):
        target = held.newest()
    assert target is not None
    assert read_position(target) == position
    assert stored_shapes(target) == {name: tuple(tensor.shape) for name, tensor in tensors().items()}
    found = empty(tensors())
    read_tensors(target, found, PLACE)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    held.close()


def test_it_is_a_copy_of_the_moment(tmp_path: Path) -> None:
    begun = threading.Event()
    held, live = Checkpoints(tmp_path, 2, held_up(begun)), tensors()
    held.save(TrainProgress(1), live)  # returns before anything is written
    for tensor in live.values():
        tensor.zero_()
    begun.set()
    held.wait()
    found = empty(live)
    read_tensors(tmp_path / "step-000000001", found, PLACE)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    held.close()


def test_it_has_no_name_until_it_is_whole(tmp_path: Path) -> None:
    gate = threading.Event()
    gate.set()
    held = Checkpoints(tmp_path, 1, held_up(gate))
    held.save(TrainProgress(1), tensors())
    held.wait()
    gate.clear()
    held.save(TrainProgress(2), tensors())
    until(lambda: (tmp_path / ".step-000000002.partial").exists())
    assert list_checkpoints(tmp_path) == [1]
    gate.set()
    held.wait()
    assert list_checkpoints(tmp_path) == [2]
    with heard(no_warning):
        assert held.newest() == tmp_path / "step-000000002"
    held.close()


def test_what_a_kill_left_is_brought_to_an_end(tmp_path: Path) -> None:
    held = Checkpoints(tmp_path, 3, PLACE)
    for step in (1, 2, 3):
        held.save(TrainProgress(step), tensors())
    held.save_best(tensors(), {"step": 2, "val_loss": 1.25})
    held.wait()
    (tmp_path / "step-000000003").rename(tmp_path / ".step-000000003.partial")  # whole, not named yet
    (tmp_path / BEST).rename(tmp_path / f".{BEST}.partial")
    (tmp_path / BEST).mkdir()  # and the one before half deleted
    half = tmp_path / ".step-000000004.partial"
    half.mkdir()
    (half / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"x")
    (tmp_path / "step-000000000").mkdir()  # one beyond those that are kept, half deleted
    again = Checkpoints(tmp_path, 3, PLACE)
    with heard(no_warning):
        assert again.newest() == tmp_path / "step-000000003"
    assert again.best_loss() == 1.25
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, *(f"step-{step:09d}" for step in (1, 2, 3))]
    held.close()
    again.close()


def test_many_files_where_one_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FILE_BYTES", (150, 150))
    held = Checkpoints(tmp_path, 3, PLACE)
    held.save(TrainProgress(1), tensors())
    held.wait()
    target = tmp_path / "step-000000001"
    assert len(list(target.glob("*.safetensors"))) > 3
    found = empty(tensors())
    read_tensors(target, found, PLACE)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    for file in target.glob("*.safetensors"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fault_of(target) == f"{file.name} has changed"
        file.write_bytes(content)
    assert fault_of(target) is None
    held.close()


# What a disk does

STEPS = 12
Act = Callable[[Path], None]


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


def run(model: Path, out: Path, data: Path, *more: str) -> int:
    words = ["--sequence-length", "16", "--batch", "4 sequences", "--evaluate-every", "5 steps", "--device", "cpu"]
    every = ["--checkpoint.every=2 steps", "--checkpoint.keep=9", "--micro_batch=2"]
    length = ["--length", f"{STEPS} steps", "--optimizer.learning_rate=1e-2"]
    return main(["train", str(model), str(out), "--data", str(data), "--quiet", *words, *every, *length, *more])


@pytest.fixture(scope="module")
def undisturbed(data: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(reference_folder, out, data) == 0
    return weights(out / "model")


@contextmanager
def at_step(step: int, out: Path, saved: int, act: Callable[[], object]) -> Iterator[None]:
    """Inside, `act` is done when a training in `out` has come to this step and its checkpoint `saved` (0: none) is
    there, the last one that it was writing.
    """
    steps = iter(range(1, 99))

    def stepped(*_: Any) -> None:
        if next(steps) == step:
            until(lambda: saved in (0, *list_checkpoints(out / "checkpoints")))
            time.sleep(0.1)  # its name reaches the disk too
            act()

    hook = register_optimizer_step_post_hook(stepped)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def failing(error: Exception, where: str) -> Iterator[Callable[[], None]]:
    """Inside, checkpoints cannot be written from the moment on at which what is yielded is called.

    `where`: their folder cannot be made, a file of tensors cannot be written, or checkpoint.json cannot.
    """
    mkdir, opened = Path.mkdir, os.open

    def fail(*_: Any) -> None:
        raise error

    def make(self: Path, *given: Any, **named: Any) -> None:
        return fail() if self.name.endswith(".partial") else mkdir(self, *given, **named)

    def open_file(path: Any, *given: Any, **named: Any) -> int:
        if str(path).endswith(".checkpoint.json.partial"):
            fail()
        return opened(path, *given, **named)

    with pytest.MonkeyPatch.context() as patch:

        def begin() -> None:
            if where == "folder":
                patch.setattr(Path, "mkdir", make)
            elif where == "tensors":
                patch.setattr(HuggingFaceStorageWriter, "write_data", fail)
            else:
                patch.setattr(os, "open", open_file)

        yield begin


def check_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    for word in words:
        assert word in said


def check_good(out: Path, steps: list[int]) -> None:
    assert list_checkpoints(out / "checkpoints") == steps
    for step in steps:
        assert fault_of(out / "checkpoints" / f"step-{step:09d}") is None


def goes_on(model: Path, out: Path, data: Path, undisturbed: dict[str, bytes], *more: str) -> None:
    assert run(model, out, data, *more) == 0
    assert weights(out / "model") == undisturbed
    assert [record["step"] for record in read_metrics(out / "metrics.jsonl")] == list(range(STEPS + 1))
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "where"),
    [(errno.ENOSPC, "folder"), (errno.ENOSPC, "tensors"), (errno.EROFS, "tensors"), (errno.EIO, "facts")],
)
def test_a_write_that_fails_is_noticed_at_the_next_one(
    tmp_path: Path, data: Path, reference_folder: Path, undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str], fault: int, where: str,
) -> None:  # fmt: skip
    place = str(tmp_path / "run" / "checkpoints" / "x")
    with failing(OSError(fault, os.strerror(fault), place), where) as begin, at_step(7, tmp_path / "run", 6, begin):
        assert run(reference_folder, tmp_path / "run", data) == 1
    check_line(capsys, place, "disk is full; make room" if fault == errno.ENOSPC else "run the same command again")
    check_good(tmp_path / "run", [2, 4, 6])
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 9
    goes_on(reference_folder, tmp_path / "run", data, undisturbed)


@pytest.mark.parametrize("what", ["the last", "a stop", "the best"])
def test_a_write_that_fails_is_noticed_when_none_follows(
    tmp_path: Path, data: Path, reference_folder: Path, undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str], what: str,
) -> None:  # fmt: skip
    step, saved = {"the last": (STEPS, STEPS - 2), "a stop": (7, 6), "the best": (5, 0)}[what]
    more = {
        "the last": ["--checkpoint.best=false"],  # else it is noticed when this one is written
        "a stop": [],
        "the best": ["--checkpoint.every=5 minutes"],
    }[what]
    before = signal.getsignal(signal.SIGTERM)
    with failing(OSError(errno.ENOSPC, "No space left on device", "here"), "facts") as begin:

        def act() -> None:
            begin()
            if what == "a stop":
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            with at_step(step, tmp_path / "run", saved, act):
                assert run(reference_folder, tmp_path / "run", data, *more) == 1
        finally:
            signal.signal(signal.SIGTERM, before)
    check_line(capsys, "here: the disk is full; make room")
    if what == "the best":
        return
    check_good(tmp_path / "run", list(range(2, step, 2)))
    assert not (tmp_path / "run" / "model").exists()
    goes_on(reference_folder, tmp_path / "run", data, undisturbed, *more)


def test_an_interruption_while_tensors_are_read_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch wraps what its reader raises, KeyboardInterrupt too, in an exception of its own."""
    held = Checkpoints(tmp_path, 2, PLACE)
    held.save(TrainProgress(1), tensors())
    held.wait()
    held.close()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HuggingFaceStorageReader, "read_data", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(tmp_path / "step-000000001", empty(tensors()), PLACE)


def test_an_error_of_the_format_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def fail(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", fail)
    held = Checkpoints(tmp_path, 2, PLACE)
    held.save(TrainProgress(1), tensors())
    with pytest.raises(RunError, match=r"step-000000001: .*No space left.*the one before it is good; make room"):
        held.wait()
    assert list(tmp_path.iterdir()) == []
    held.close()


def mount(*words: str | Path) -> None:
    """Needs root on Linux; skips the test elsewhere."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root on Linux")
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not mount that: {done.stderr.strip()}")


def unmount(*words: str | Path) -> None:
    subprocess.run(["umount", *map(str, words)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a test mounts something."""
    (tmp_path / "disk").mkdir()
    yield tmp_path / "disk"
    for _ in range(3):
        if os.path.ismount(tmp_path / "disk"):
            unmount("-l", tmp_path / "disk")


@pytest.mark.long
@pytest.mark.parametrize("room", ["8k", "16k", "300k", "420k", "900k"])
def test_a_full_disk(
    disk: Path, data: Path, reference_folder: Path, undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str], room: str,
) -> None:  # fmt: skip
    mount("-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk)
    assert run(reference_folder, disk / "run", data) == 1
    check_line(capsys, str(disk), "make room")
    good = list_checkpoints(disk / "run" / "checkpoints")
    assert good == list(range(2, 2 * len(good) + 1, 2))
    check_good(disk / "run", good)
    mount("-o", "remount,size=50m", disk)
    goes_on(reference_folder, disk / "run", data, undisturbed)


@pytest.mark.long
def test_a_folder_that_becomes_read_only(
    tmp_path: Path, data: Path, reference_folder: Path, undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "run" / "checkpoints"

    def lock() -> None:
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)

    try:
        with at_step(7, tmp_path / "run", 6, lock):
            assert run(reference_folder, tmp_path / "run", data) == 1
        check_line(capsys, str(folder), "Read-only file system", "run the same command again")
        check_good(tmp_path / "run", [2, 4, 6])
        assert run(reference_folder, tmp_path / "run", data) == 1  # at its first checkpoint
        check_line(capsys, str(folder), "Read-only file system", "run the same command again")
    finally:
        unmount(folder)
    goes_on(reference_folder, tmp_path / "run", data, undisturbed)


@pytest.mark.long
def test_a_mount_that_vanishes(
    tmp_path: Path, disk: Path, data: Path, reference_folder: Path, undisturbed: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without a look at the disk, the rest would go where the mount was, and the checkpoints would not be found."""
    other = tmp_path / "other"
    other.mkdir()
    mount("-t", "tmpfs", "-o", "size=50m", "tmpfs", other)
    try:
        mount("--bind", other, disk)
        with at_step(7, disk / "run", 6, lambda: unmount("-l", disk)):
            assert run(reference_folder, disk / "run", data) == 1
        check_line(capsys, str(disk / "run" / "checkpoints"), "unmounted", "run the same command again")
        assert list(disk.iterdir()) == []
        check_good(other / "run", [2, 4, 6])
        mount("--bind", other, disk)
        goes_on(reference_folder, disk / "run", data, undisturbed)
        unmount(disk)
    finally:
        unmount("-l", other)


def test_a_folder_that_is_deleted(
    tmp_path: Path, data: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    with at_step(7, tmp_path / "run", 6, lambda: shutil.rmtree(tmp_path / "run")):
        assert run(reference_folder, tmp_path / "run", data) == 1
    check_line(capsys, str(tmp_path / "run" / "checkpoints"), "no longer there")
    assert not (tmp_path / "run").exists()
