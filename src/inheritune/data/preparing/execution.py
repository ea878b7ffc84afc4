"""Where the tasks of a stage run: in worker processes of this machine, as Slurm jobs, or on a Ray cluster."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from inheritune.errors import InherituneError, InputError, Problem, RunError
from inheritune.recipe import Data
from inheritune.runlog import open_new

Say = Callable[[str], None]
_SAY_EVERY = 15.0  # seconds between two lines about a stage's progress
_ASK_EVERY = 5.0  # seconds between two looks at a cluster's tasks
_GONE_LOOKS = 6  # looks at the queue, without its job, before a job is taken for dead: file systems show files late


class Stages:
    """Runs stages of steps in tasks, each task once: a task that was completed before is not done again.

    The result of a task must not depend on where it runs, nor on how many run beside it.
    """

    def __init__(self, data: Data, logs: Path, say: Say) -> None:
        """Raises InputError as `check_executor` does."""
        check_executor(data)
        logger.disable("datatrove")  # what it logs here is for operators of clusters; errors are raised all the same
        self.data, self.logs, self.say = data, logs, say

    def run(self, name: str, steps: Sequence[PipelineStep], tasks: int, threads: int = 1, about: str = "") -> None:
        """Run `steps` for the ranks 0 to tasks - 1; a task keeps about `threads` processors busy.

        `about` is said where anything is left to do. Raises what a task raised, RunError when one dies.
        """
        place = self.logs / name
        done = len(list(place.glob("completions/*")))
        if about and done < tasks:
            self.say(f"data: {about}")
        if self.data.executor == "local":
            LocalExecutor(list(steps), tasks, self._workers(tasks, threads), place, self.say).run()
        elif self.data.executor == "slurm":
            self._slurm(name, list(steps), tasks, place)
        else:
            self._ray(list(steps), tasks, place)

    def _workers(self, tasks: int, threads: int) -> int:
        return min(tasks, self.data.workers or max(1, (os.cpu_count() or 1) // threads))

    def _slurm(self, name: str, steps: list[PipelineStep], tasks: int, place: Path) -> None:
        from inheritune.data.preparing.slurm import SlurmExecutor

        slurm = self.data.slurm
        assert slurm is not None  # the recipe sees to it
        executor = SlurmExecutor(
            steps,
            tasks,
            slurm.time,
            slurm.partition,
            cpus_per_task=slurm.cpus_per_task,
            mem_per_cpu_gb=slurm.gigabytes_per_cpu,
            workers=self.data.workers or -1,
            job_name=f"inheritune-{name}",
            qos=slurm.qos,  # None leaves the option out
            env_command=slurm.environment or f"export PATH={Path(sys.executable).parent}:$PATH",
            sbatch_args=dict(slurm.sbatch),
            logging_dir=str(place),
            mail_user=None,
        )
        try:
            executor.run()
        except subprocess.CalledProcessError as error:
            raise RunError("data.executor: slurm", f"sbatch refused ({error})", "see its message above") from None
        job = str(executor.job_id)
        try:
            self._wait(name, executor, job, tasks, place)
        except BaseException:
            # what is left of it must not write into the folder when that belongs to another request
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["scancel", job], capture_output=True, check=False)
            raise

    def _wait(self, name: str, executor: PipelineExecutor, job: str, tasks: int, place: Path) -> None:
        """Wait for the tasks of a Slurm job. Raises RunError when it has ended and some are not done."""
        missed, said = 0, None
        while left := executor.get_incomplete_ranks(skip_completed=True):
            if len(left) != said:
                said = len(left)
                self.say(f"data: {name}: {tasks - said} of {tasks} tasks done, Slurm job {job}")
            time.sleep(_ASK_EVERY)
            missed = 0 if _in_queue(job) else missed + 1
            if missed > _GONE_LOOKS:
                raise RunError(
                    f"data: {name}",
                    f"Slurm job {job} has ended with {len(left)} of {tasks} tasks undone",
                    f"see {place}/slurm_logs and {place}/logs; the same command then does what is left",
                )

    def _ray(self, steps: list[PipelineStep], tasks: int, place: Path) -> None:
        from datatrove.executor.ray import RayPipelineExecutor

        executor = RayPipelineExecutor(
            steps, tasks, workers=self.data.workers or -1, logging_dir=str(place), mem_per_cpu_gb=2
        )
        executor.run()
        if left := executor.get_incomplete_ranks(skip_completed=True):
            raise RunError(
                f"data: {place.name}",
                f"{len(left)} of {tasks} tasks failed on the Ray cluster",
                f"see {place}/logs; the same command then does what is left",
            )


def _in_queue(job: str) -> bool:
    """Whether Slurm still has this job, waiting or running; a queue that does not answer is taken for yes."""
    found = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
    return (found.returncode != 0 and "nvalid job id" not in found.stderr) or bool(found.stdout.strip())


def check_executor(data: Data) -> None:
    """Raise InputError where what runs the tasks is not on this machine."""
    if data.executor == "slurm" and shutil.which("sbatch") is None:
        raise InputError(
            "data.executor", "slurm, and there is no `sbatch` here", "submit from a login node, or use local"
        )
    if data.executor == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("data.executor", "ray is not installed", "pip install 'ray[default]'")


class LocalExecutor(PipelineExecutor):  # type: ignore[misc]
    """Tasks on this machine: one after the other in this process, or shared out to worker processes.

    datatrove's own local executor keeps a multiprocessing pool, which waits for ever when the system kills one of its
    processes (for memory, say), and which starts the caller's script again in each of them.
    """

    def __init__(self, pipeline: list[PipelineStep], tasks: int, workers: int, place: Path, say: Say) -> None:
        super().__init__(pipeline, str(place))
        self.tasks, self.workers, self.place = tasks, workers, place
        self._say: Say | None = say

    def run(self) -> None:
        """Run what is not done yet. Raises what a task raised; RunError when a worker process is killed."""
        left = deque(self.get_incomplete_ranks())
        if not left:
            return
        workers = min(self.workers, len(left))
        if workers == 1:
            for rank in left:
                task = deepcopy(self)  # a step keeps what it counted
                task.run_task(rank)
            return
        _Crew(self, workers).work(left)

    def run_task(self, rank: int) -> None:
        """Run one task in this process."""
        logger.disable("datatrove")  # as in Stages; this may be a worker process
        self._run_for_rank(rank)

    @property
    def world_size(self) -> int:
        """The number of tasks."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove tells its steps about the machine."""
        names = DistributedEnvVars.__annotations__
        return DistributedEnvVars(**{**dict.fromkeys(names, "-1"), "datatrove_executor": "LOCAL"})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_say": None}


class _Crew:
    """Worker processes that are handed tasks, one at a time each."""

    def __init__(self, executor: LocalExecutor, workers: int) -> None:
        import dill

        self.executor, self.said = executor, time.monotonic()
        file = executor.place / "executor.pik"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_new(file) as opened:
            opened.write(dill.dumps(executor))
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        self.answers: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self.processes = [
            # A session of its own: Ctrl-C is for this process, which ends the workers.
            subprocess.Popen(
                [sys.executable, "-m", "inheritune.data.preparing.worker", str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
            )
            for _ in range(workers)
        ]  # fmt: skip
        self.listeners = [
            Thread(target=self._listen, args=(number, process), daemon=True)
            for number, process in enumerate(self.processes)
        ]

    def work(self, left: deque[int]) -> None:
        total = done = len(left)
        try:
            for number, listener in enumerate(self.listeners):
                listener.start()
                self._hand_out(number, left)
            while done:
                number, line = self.answers.get()
                if not line:
                    raise self._death(number)
                if problem := json.loads(line):
                    raise _error(problem)
                done -= 1
                self._tell(total - done, total)
                self._hand_out(number, left)
        finally:
            for process in self.processes:
                process.kill()  # every file appears whole or not at all, so a worker may end anywhere
            for process, listener in zip(self.processes, self.listeners, strict=True):
                listener.join()
                process.wait()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdout.close()
                with contextlib.suppress(BrokenPipeError):  # a rank that it did not live to read
                    process.stdin.close()

    def _listen(self, number: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.answers.put((number, line))
        self.answers.put((number, ""))

    def _hand_out(self, number: int, left: deque[int]) -> None:
        if left:
            stdin = self.processes[number].stdin
            assert stdin is not None
            try:
                print(left.popleft(), file=stdin, flush=True)
            except BrokenPipeError:
                self.answers.put((number, ""))

    def _death(self, number: int) -> RunError:
        status = self.processes[number].wait()
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return RunError(
            f"data: {self.executor.place.name}",
            f"a worker process was {how}",
            "if memory ran out give fewer data.workers; the same command then does what is left",
        )

    def _tell(self, done: int, total: int) -> None:
        if self.executor._say is not None and time.monotonic() - self.said > _SAY_EVERY:
            self.said = time.monotonic()
            self.executor._say(f"data: {self.executor.place.name}: {done} of {total} tasks")


def report(error: BaseException) -> dict[str, Any]:
    """An error as plain data, from a worker to the process that handed out the task."""
    if isinstance(error, InputError | RunError):
        problems = [[problem.place, problem.what, problem.remedy] for problem in error.problems]
        return {"input": isinstance(error, InputError), "problems": problems}
    if isinstance(error, OSError):
        what = f"{error.strerror or error}"
        return {"input": False, "problems": [[str(error.filename or "data"), what, "see to it, then run it again"]]}
    if isinstance(error, MemoryError):
        return {"input": False, "problems": [["data", "out of memory", "give fewer data.workers, or more memory"]]}
    what = f"{type(error).__name__}: {error}"
    return {"input": False, "problems": [["data", what, "this should not happen: please report it"]]}


def _error(problem: dict[str, Any]) -> InherituneError:
    if problem["input"]:
        return InputError.of([Problem(*parts) for parts in problem["problems"]])
    return RunError(*problem["problems"][0])
