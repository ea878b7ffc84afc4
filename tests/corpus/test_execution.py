"""Stages in tasks: each once, whoever runs it, and what goes wrong in one is said."""

import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.base import PipelineStep

from inheritune.corpus.building.execution import Stages
from inheritune.errors import InputError, RunError
from inheritune.recipe import Data, check


class Leave(PipelineStep):  # type: ignore[misc]
    """Leaves a file for each rank, with the process that wrote it; fails as it is told."""

    def __init__(self, folder: Path, fail: dict[int, str] | None = None) -> None:
        super().__init__()
        self.folder, self.fail = folder, fail or {}

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        how = self.fail.get(rank)
        if how == "input":
            raise InputError(f"file {rank}", "not text", "leave it out")
        if how == "bug":
            raise ZeroDivisionError("by nothing")
        if how == "disk":
            raise OSError(28, "No space left on device", "/some/file")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / str(rank)).open("a") as file:
            file.write(f"{os.getpid()} of {world_size}\n")
        yield from ()


def stages(tmp_path: Path, workers: int, **more: Any) -> Stages:
    data = check(Data, {"sources": [{"path": "x"}], "workers": workers, **more}, "data")
    return Stages(data, tmp_path / "logs")


@pytest.fixture(autouse=True)
def steps_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes find `Leave` by its module."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once(workers: int, folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        stages(tmp_path, workers).run("leave", [Leave(folder)], 5)
    found = {int(file.name): file.read_text().splitlines() for file in folder.iterdir()}
    assert sorted(found) == list(range(5))
    assert all(len(lines) == 1 for lines in found.values())
    processes = {line.split()[0] for lines in found.values() for line in lines}
    assert (processes == {str(os.getpid())}) == (workers == 1)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_with_a_task_is_said_and_the_others_are_not_done_again(
    workers: int, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="file 3: not text; leave it out"):
        stages(tmp_path, workers).run("leave", [Leave(folder, {3: "input"})], 4)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    stages(tmp_path, workers).run("leave", [Leave(folder)], 4)
    assert sorted(file.name for file in folder.iterdir()) == ["0", "1", "2", "3"]
    done = {name for name in before if (folder / name).read_text() == before[name]}
    # With two processes, a task may have ended in the moment in which the other one failed.
    assert len(before) - len(done) <= workers - 1


def test_a_killed_worker_ends_the_stage_at_once(folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match="a worker process was killed by signal 9; if memory ran out"):
        stages(tmp_path, 2).run("leave", [Leave(folder, {1: "kill"})], 4)
    assert time.monotonic() - began < 60


@pytest.mark.long
def test_errors_of_the_system_and_of_ours_are_told_apart(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="/some/file: No space left on device"):
        stages(tmp_path, 2).run("disk", [Leave(folder, {0: "disk"})], 2)
    with pytest.raises(RunError, match="ZeroDivisionError: by nothing; this should not happen"):
        stages(tmp_path, 2).run("bug", [Leave(folder, {0: "bug"})], 2)


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of one machine: sbatch runs the array's tasks one after the other, squeue knows no job."""
    place = tmp_path / "bin"
    place.mkdir()
    _executable(
        place / "sbatch",
        f"""#!{sys.executable}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
log = open({str(tmp_path / "sbatch.log")!r}, "a")
log.write(" ".join(sys.argv[1:-1]) + "\\n" + script)
last = re.search(r"--array=0-(\\d+)", script)
if "merge_stats" not in script:
    for task in range(int(last.group(1)) + 1):
        environment = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), RUN_OFFSET="0", SLURM_NODELIST="here")
        subprocess.run(["bash", sys.argv[-1]], env=environment, stdout=log, stderr=log)
print("Submitted batch job 17")
""",
    )
    # srun -l -n 1 command: the command
    _executable(
        place / "srun",
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do case $1 in -n) shift 2;; *) shift;; esac; done\nexec "$@"\n',
    )
    _executable(place / "scontrol", "#!/bin/bash\necho here\n")
    _executable(place / "squeue", "#!/bin/bash\n")
    _executable(place / "scancel", f"#!/bin/bash\necho $1 > {tmp_path}/cancelled\n")
    monkeypatch.setenv("PATH", f"{place}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr("inheritune.corpus.building.execution._ASK_EVERY", 0.01)
    return tmp_path / "sbatch.log"


CLUSTER: dict[str, Any] = {
    "executor": "slurm",
    "slurm": {"partition": "cpu", "time": "01:00:00", "sbatch": {"account": "us"}},
}


@pytest.mark.long
def test_slurm_runs_the_same_tasks(slurm: Path, folder: Path, tmp_path: Path) -> None:
    stages(tmp_path, 2, **CLUSTER).run("leave", [Leave(folder)], 3)
    assert sorted(file.name for file in folder.iterdir()) == ["0", "1", "2"]
    script = slurm.read_text()
    for option in ("--partition=cpu", "--time=01:00:00", "--array=0-2%2", "--account=us"):
        assert f"#SBATCH {option}" in script


@pytest.mark.long
def test_a_slurm_job_that_ends_too_early_is_said(slurm: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Slurm job 17 has ended with 1 of 2 tasks undone; see .*logs"):
        stages(tmp_path, 2, **CLUSTER).run("leave", [Leave(folder, {1: "input"})], 2)
    assert (tmp_path / "cancelled").read_text() == "17\n"  # nothing of it writes into the folder later
    assert "merge_stats" not in slurm.read_text()


def test_slurm_without_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no `sbatch` here; submit from a login node"):
        stages(tmp_path, 2, **CLUSTER)


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="ray is not installed; pip install 'ray"):
        stages(tmp_path, 2, executor="ray")
