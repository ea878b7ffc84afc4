"""Where the tasks of a stage run: in worker processes of this machine, as Slurm jobs, or on a Ray cluster."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import astuple
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from loguru import logger as loguru

from inheritune.errors import InputError, Problem, RunError
from inheritune.recipe import Data
from inheritune.runlog import logger, open_new

Step = Callable[..., Any]
"""A step of a pipeline: `step(data, rank, world_size)` takes what the step before it yields."""

_SAY_EVERY = 15.0  # seconds between two lines about a stage's progress
_ASK_EVERY = 5.0  # seconds between two checks of a cluster's tasks
_GONE_LOOKS = 6  # checks that miss a job in the queue before it counts as dead: file systems show files late
_RESUMES = "the same command then runs the rest"


class Stages:
    """Runs stages of steps in tasks. A completed task is never run again.

    The result of a task must not depend on where it runs, nor on how many run at once.
    """

    def __init__(self, data: Data, logs: Path) -> None:
        """Raises InputError as `check_executor` does."""
        check_executor(data)
        loguru.disable("datatrove")  # its logs are for operators of clusters; errors are raised anyway
        self.data, self.logs = data, logs

    def run(self, name: str, steps: Sequence[Step], tasks: int, threads: int = 1, about: str = "") -> None:
        """Run `steps` for the ranks 0 to tasks - 1; a task keeps about `threads` processors busy.

        `about` is printed unless all tasks are complete. Raises what a task raised, RunError when one dies.
        """
        place = self.logs / name
        if about and len(list(place.glob("completions/*"))) < tasks:
            logger.info(f"data: {about}")
        if self.data.executor == "slurm":
            self._slurm(name, list(steps), tasks, place)
        elif self.data.executor == "ray":
            self._ray(list(steps), tasks, place)
        else:
            workers = min(tasks, self.data.workers or max(1, (os.cpu_count() or 1) // threads))
            LocalExecutor(list(steps), tasks, workers, place).run()

    def _slurm(self, name: str, steps: list[Step], tasks: int, place: Path) -> None:
        from datatrove.executor.slurm import SlurmPipelineExecutor

        slurm = self.data.slurm
        assert slurm is not None  # as the recipe checks
        executor = SlurmPipelineExecutor(
            steps,
            tasks,
            slurm.time,
            slurm.partition,
            cpus_per_task=slurm.cpus_per_task,
            mem_per_cpu_gb=slurm.gigabytes_per_cpu,
            workers=self.data.workers or -1,
            job_name=f"inheritune-{name}",
            qos=slurm.qos,  # with None the option is not given
            env_command=slurm.environment or f"export PATH={Path(sys.executable).parent}:$PATH",
            sbatch_args=dict(slurm.sbatch),
            logging_dir=str(place),
            mail_user=None,
        )
        # The job that would merge datatrove's statistics, which nobody reads, would wait for ever after a failed task.
        executor.launch_merge_stats = lambda: None
        try:
            executor.run()
        except subprocess.CalledProcessError as error:
            raise RunError("data.executor: slurm", f"sbatch refused ({error})", "see its message above") from None
        job = str(executor.job_id)
        try:
            self._wait(name, executor, job, tasks, place)
        except BaseException:
            # The job must not write into the folder when that belongs to another request.
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["scancel", job], capture_output=True, check=False)
            raise

    def _wait(self, name: str, executor: PipelineExecutor, job: str, tasks: int, place: Path) -> None:
        """Wait for the tasks of a Slurm job. Raises RunError when it has ended and some are not done."""
        missed, shown = 0, None
        while open_ranks := executor.get_incomplete_ranks(skip_completed=True):
            if len(open_ranks) != shown:
                shown = len(open_ranks)
                logger.info(f"data: {name}: {tasks - shown} of {tasks} tasks done, Slurm job {job}")
            time.sleep(_ASK_EVERY)
            missed = 0 if _in_queue(job) else missed + 1
            if missed > _GONE_LOOKS:
                what = f"Slurm job {job} has ended with {len(open_ranks)} of {tasks} tasks undone"
                raise RunError(f"data: {name}", what, f"see {place}/slurm_logs and {place}/logs; {_RESUMES}")

    def _ray(self, steps: list[Step], tasks: int, place: Path) -> None:
        from datatrove.executor.ray import RayPipelineExecutor

        workers = self.data.workers or -1
        executor = RayPipelineExecutor(steps, tasks, workers=workers, logging_dir=str(place), mem_per_cpu_gb=2)
        executor.run()
        if failed := executor.get_incomplete_ranks(skip_completed=True):
            what = f"{len(failed)} of {tasks} tasks failed on the Ray cluster"
            raise RunError(f"data: {place.name}", what, f"see {place}/logs; {_RESUMES}")


def _in_queue(job: str) -> bool:
    """Whether Slurm has this job, waiting or running, or does not answer."""
    answer = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
    return (answer.returncode != 0 and "nvalid job id" not in answer.stderr) or bool(answer.stdout.strip())


def check_executor(data: Data) -> None:
    """Raise InputError where this machine lacks the program or package that runs the tasks."""
    if data.executor == "slurm" and shutil.which("sbatch") is None:
        remedy = "submit from a login node, or use local"
        raise InputError("data.executor", "slurm, and there is no `sbatch` here", remedy)
    if data.executor == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("data.executor", "ray is not installed", "pip install 'ray[default]'")


class LocalExecutor(PipelineExecutor):  # type: ignore[misc]
    """Tasks on this machine: one after the other in this process, or in worker processes.

    datatrove's own local executor uses a multiprocessing pool, which waits for ever when the system kills one of its
    processes (for example for memory), and which runs the caller's script again in each of them.
    """

    def __init__(self, pipeline: list[Step], tasks: int, workers: int, place: Path) -> None:
        super().__init__(pipeline, str(place))
        self.tasks, self.workers, self.place = tasks, workers, place

    def run(self) -> None:
        """Run the open tasks. Raises what a task raised; RunError when a worker process is killed."""
        ranks = list(self.get_incomplete_ranks())
        workers = min(self.workers, len(ranks))
        if workers > 1:
            self._run_in_processes(ranks, workers)
            return
        for rank in ranks:
            deepcopy(self).run_task(rank)  # a copy, as a step keeps its counts

    def run_task(self, rank: int) -> None:
        """Run one task in this process."""
        loguru.disable("datatrove")  # as in Stages; this may be a worker process
        self._run_for_rank(rank)

    @property
    def world_size(self) -> int:
        """The number of tasks."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove tells its steps about the machine."""
        names = DistributedEnvVars.__annotations__
        return DistributedEnvVars(**{**dict.fromkeys(names, "-1"), "datatrove_executor": "LOCAL"})

    def _run_in_processes(self, ranks: list[int], workers: int) -> None:
        idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        processes = self._start_workers(workers)
        for process in processes:
            idle.put(process)

        def run(rank: int) -> None:
            process = idle.get()
            try:
                self._ask(process, rank)
            finally:
                idle.put(process)

        threads, shown = ThreadPoolExecutor(workers), time.monotonic()
        try:
            for done, task in enumerate(as_completed([threads.submit(run, rank) for rank in ranks]), start=1):
                task.result()
                if time.monotonic() - shown > _SAY_EVERY:
                    shown = time.monotonic()
                    logger.info(f"data: {self.place.name}: {done} of {len(ranks)} tasks")
        finally:
            for process in processes:
                process.kill()  # files appear complete or not at all, so a worker may end anywhere
            threads.shutdown(cancel_futures=True)
            for process in processes:
                with contextlib.suppress(BrokenPipeError):  # a rank that the process did not read
                    process.communicate()

    def _start_workers(self, count: int) -> "list[subprocess.Popen[str]]":
        import dill

        file = self.place / "executor.pik"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_new(file) as opened:
            opened.write(dill.dumps(self))
        threads = str(max(1, (os.cpu_count() or 1) // count))
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "inheritune.corpus.building.worker", str(file)]
        return [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
                start_new_session=True,  # Ctrl-C reaches this process, which ends the workers
            )
            for _ in range(count)
        ]  # fmt: skip

    def _ask(self, process: "subprocess.Popen[str]", rank: int) -> None:
        """Let a worker run a task. Raises what the task raised; RunError where the worker dies."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(rank, file=process.stdin, flush=True)
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = process.wait()
            how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
            remedy = f"if memory ran out give fewer data.workers; {_RESUMES}"
            raise RunError(f"data: {self.place.name}", f"a worker process was {how}", remedy)
        if error := json.loads(answer):
            problems = [Problem(*parts) for parts in error["problems"]]
            if error["input"]:
                raise InputError.of(problems)
            raise RunError(problems[0].place, problems[0].what, problems[0].remedy)


def report(error: BaseException) -> dict[str, Any]:
    """An error as plain data, from a worker to the process that sent the task."""
    if isinstance(error, InputError | RunError):
        return {"input": isinstance(error, InputError), "problems": [astuple(problem) for problem in error.problems]}
    problem = ["data", f"{type(error).__name__}: {error}", "this should not happen: please report it"]
    if isinstance(error, OSError):
        problem = [str(error.filename or "data"), str(error.strerror or error), "remove the cause, then run it again"]
    elif isinstance(error, MemoryError):
        problem = ["data", "out of memory", "give fewer data.workers, or more memory"]
    return {"input": False, "problems": [problem]}
