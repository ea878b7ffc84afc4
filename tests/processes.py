"""`inheritune` in processes of its own that begin warm: forked from one that has done the imports, seconds of each.

They have arguments, standard output, exit status and signals of their own, as a user's have. What is about the start
of a process itself (its imports, torchrun, the settings that libraries read when they are imported) is tested with
`python -m inheritune`.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What a run imports, the families of the tests' models among it; imported in the process that forks, once.
PRELOADED = [
    "inheritune.cli.commands", "inheritune.experiment", "inheritune.corpus.building.selection", "torch._dynamo",
    "torch.distributed.fsdp", "torch.distributed.checkpoint", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama", "transformers.convert_slow_tokenizer", "datatrove.executor",
    "PIL.PngImagePlugin", "tokenizers.trainers", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "orjson",
]  # fmt: skip
multiprocessing.set_forkserver_preload(PRELOADED)
_FORKS = multiprocessing.get_context("forkserver")


def _be_program(
    words: list[str], out: str, error: str, cwd: str, variables: dict[str, str], first: Callable[[], object] | None
) -> None:
    for descriptor, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["inheritune", *words]
    from inheritune.cli import main

    if first is not None:
        first()
    sys.exit(main(words))


class Started:
    """`inheritune` that was started with `words`; `first`, a function of a module, is called there before it begins."""

    def __init__(
        self, *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        first: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._said = [folder / name for name in ("out", "error")]
        there = str(cwd or Path.cwd()), dict(env or os.environ)
        given = ([str(word) for word in words], *map(str, self._said), *there, first)
        self._process = _FORKS.Process(target=_be_program, args=given, daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        """The exit status (a signal's number, negative, where one ended it); None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and give its exit status; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("inheritune", timeout or 0)
        return self._process.exitcode

    def wait_until(self, there: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is there, or it has ended."""
        until = time.monotonic() + seconds
        while self.poll() is None and not there() and time.monotonic() < until:
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    @property
    def said(self) -> tuple[str, str]:
        """What it has written until now: standard output and standard error."""
        out, error = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self._said)
        return out, error

    def end(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and what became of it; one that takes too long is killed (subprocess.TimeoutExpired)."""
        try:
            status = self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise
        return subprocess.CompletedProcess("inheritune", status, *self.said)


def program(*words: str | Path, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `inheritune` in a process of its own that begins warm."""
    return Started(*words, **options).end(timeout)


def fresh_program(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `inheritune` from nothing, as a user does, its imports and all."""
    command = [sys.executable, "-m", "inheritune", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def in_processes(function: Callable[..., None], *given: Any, processes: int = 2) -> None:
    """Call `function` of a module with its rank and `given` in several processes that begin warm."""
    import torch

    torch.multiprocessing.start_processes(function, given, nprocs=processes, start_method="forkserver")


def together(
    processes: int, *words: str | Path, timeout: float = 280, nodes: int = 1
) -> list[subprocess.CompletedProcess[str]]:
    """Run `inheritune` in several processes that meet, with the variables that torchrun would give them."""
    return [each.end(timeout) for each in begin_together(processes, *words, nodes=nodes)]


def begin_together(processes: int, *words: str | Path, nodes: int = 1) -> list[Started]:
    """As `together`, without waiting for their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = processes // nodes
    place = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Started(
            *words,
            env=os.environ
            | {name: str(value) for name, value in (place | {"RANK": n, "LOCAL_RANK": n % node}).items()},
        )
        for n in range(processes)
    ]
