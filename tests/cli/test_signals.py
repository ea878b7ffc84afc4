"""Signals at any instant, to a real process: status 130, and a line that says whether a second one ends at once."""

import signal
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(("words", "status"), [(["--version"], 0), (["run", "nowhere.yaml"], 2)])
def test_a_signal_while_the_process_ends_is_no_traceback(words: list[str], status: int) -> None:
    """What the command has come to stands, and what it has said is not lost."""
    script = """
import atexit, os, signal, sys
from inheritune.cli import main

atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.argv[0] = "inheritune"
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert (done.stdout + done.stderr).splitlines()[0].startswith("error: " if status else "inheritune ")
    assert len((done.stdout + done.stderr).splitlines()) == 1
