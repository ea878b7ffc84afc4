"""The place of a process among others, as its environment says it."""

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inheritune import runtime
from inheritune.cli import main
from inheritune.errors import InputError

ALL = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    for name in ("init_process_group", "new_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **named: None)

    def all_say_the_same(found: list[object], own: object, group: object) -> None:
        found[:] = [own] * len(found)

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_say_the_same)


@pytest.mark.parametrize(
    ("given", "place"),
    [({}, (0, 1)), (ALL, (1, 2)), ({"RANK": "0"}, (0, 1)), ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)), ({"MASTER_PORT": "1"}, (0, 1))],
)  # fmt: skip
def test_what_torchrun_sets(given: dict[str, str], place: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    started = runtime.start("cpu")
    assert (started.rank, started.world_size, started.nodes) == (*place, 1)


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "1"}, {"WORLD_SIZE": "2"}, ALL | {"RANK": "2"}, ALL | {"RANK": "-1"}, ALL | {"RANK": "a"},
        ALL | {"WORLD_SIZE": "x"}, ALL | {"MASTER_PORT": ""}, {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)  # fmt: skip
def test_what_no_torchrun_sets_is_said_and_not_waited_for(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("inheritune.cli.entry._MOMENT", 0.0)
    with pytest.raises(InputError, match=r"environment: RANK=.*start it with torchrun"):
        runtime.start("cpu")
    assert main(["bench", "--steps", "5", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "unset RANK and WORLD_SIZE" in said


def test_how_long_a_training_waits_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waits = []

    def join(backend: str, timeout: datetime.timedelta) -> None:
        waits.append(timeout.total_seconds() / 60)
        raise InputError("here", "enough", "stop")

    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    for name, value in (ALL | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    words = ["train", "model", str(tmp_path / "out"), "--data", str(tmp_path), "--length", "1 steps"]
    assert main([*words, "--timeout", "0.5 minutes"]) == 2
    assert main(words) == 2
    assert main([*words, "--timeout", "5"]) == 2
    assert waits == [0.5, 10]


_WAITING = """
import time
from inheritune import runtime
here = runtime.start("cpu", 1, timeout_minutes=0.03)
assert here.on_rank0(lambda: time.sleep(5) or "done") == "done"
assert here.gather(here.rank) == [0, 1]
runtime.leave()
"""


@pytest.mark.long
def test_what_the_first_does_alone_may_take_longer_than_others_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(_WAITING)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*words, tmp_path / "waiting.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("mesh", "size", "ranks"),
    [
        ({}, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"replicate": 8}, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"replicate": 2, "shard": 4}, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"replicate": 2, "shard": 2, "tensor": 2}, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({"pipeline": 2, "shard": 4}, 4, [0, 1, 2, 3, 0, 1, 2, 3]),
    ],
)
def test_data_are_divided_by_the_data_dimensions_of_the_mesh_only(
    mesh: dict[str, int], size: int, ranks: list[int]
) -> None:
    places = [runtime.Runtime("cpu", 1, rank, 8) for rank in range(8)]
    places = [place.arranged(**mesh) if mesh else place for place in places]
    assert {place.dp_size for place in places} == {size}
    assert [place.dp_rank for place in places] == ranks


def test_a_mesh_has_as_many_processes_as_there_are() -> None:
    with pytest.raises(ValueError, match="for 2 processes"):
        runtime.Runtime("cpu", 1, 0, 2).arranged(replicate=2, shard=2)


def test_a_signal_is_answered_with_the_time_that_a_step_takes(capfd: pytest.CaptureFixture[str]) -> None:
    with runtime.stop_on_signal() as stop:
        stop.step_seconds = 11.6
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal_name == "SIGTERM"
    line = "SIGTERM: stopping after this step (a step takes about 12 s); a second signal stops now, without saving\n"
    assert capfd.readouterr().err == line
