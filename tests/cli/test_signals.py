"""Signals at any instant, to a real process: status 130, and a line that says whether a second one ends at once."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from processes import Started

_STUCK = """
import signal, sys, time
from inheritune.cli import entry

def work(arguments):
    begun = False
    while True:
        try:
            if not begun:
                begun = True
                print("begun", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            print("lost", flush=True)

entry._run = work
sys.exit(entry.main([]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_even_where_the_first_one_is_lost(number: signal.Signals) -> None:
    begun = subprocess.Popen(
        [sys.executable, "-c", _STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert begun.stdout is not None
    assert begun.stdout.readline() == "begun\n"
    begun.send_signal(number)
    assert begun.stdout.readline() == "lost\n"
    begun.send_signal(number)
    _, said = begun.communicate(timeout=5)
    assert (begun.returncode, said) == (130, f"{number.name}: stopping; a second signal ends at once\n")


def test_a_signal_while_the_program_is_loaded() -> None:
    """Its imports take seconds; an interruption there is no traceback."""
    script = """
import os, signal, sys
from inheritune.cli import entry

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "inheritune.cli.commands":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
sys.argv = ["inheritune", "inherit"]
sys.exit(entry.main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[0]) == (130, "SIGTERM: stopping; a second signal ends at once"), done.stderr
    assert lines[1:] == ["interrupted; nothing half-made is kept: if there is no result, run the same command again"]


@pytest.mark.long
def test_a_run_that_is_signalled_at_random_instants(write_recipe: Any, text: Path, tmp_path: Path) -> None:
    """Status 130 soon after, a line for the signal and a line of what is kept; the run then ends all the same."""
    path, seed = write_recipe(tiny_recipe(text)), random.Random(0)
    stopped = 0
    for _ in range(30):
        begun = Started("run", path, "--out", tmp_path / "run")
        time.sleep(seed.uniform(0.2, 3))
        sent = time.monotonic()
        begun.send(seed.choice([signal.SIGTERM, signal.SIGINT]))
        done = begun.end(60)
        if done.returncode == 0:
            break
        stopped += 1
        assert done.returncode == 130, done.stderr
        assert time.monotonic() - sent < 15
        lines = done.stderr.splitlines()
        assert any("a second signal ends at once" in line for line in lines), done.stderr
        assert "run the same command again" in lines[-1]
    assert stopped
