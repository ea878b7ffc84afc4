"""A whole recipe on several processes, where something is wrong started by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from processes import together


@pytest.mark.long
def test_a_recipe_on_two_processes_gives_what_one_gives(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["reference"]["train"]["model"] |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # drawn by rank
    recipe = write_recipe(tree)
    found = {}
    for processes in (1, 2):
        done = together(processes, "run", recipe, "--out", tmp_path / str(processes), "--json")
        assert [each.returncode for each in done] == [0] * processes, done
        found[processes] = json.loads(done[0].stdout)  # said once, and nothing else on standard output
        assert not any(each.stdout for each in done[1:])
        judged = len(found[processes]["rounds"]) + len(found[processes]["controls"]) + 1
        assert sum(each.stderr.count("evaluating") for each in done) == judged
    one, two = found[1], found[2]
    assert two["reference"]["val_loss"] == pytest.approx(one["reference"]["val_loss"], abs=1e-4)
    assert [r["layers"] for r in two["rounds"]] == [r["layers"] for r in one["rounds"]]
    for here, there in zip(two["rounds"], one["rounds"], strict=True):
        assert here["val_loss"] == pytest.approx(there["val_loss"], abs=1e-4)
        assert here["gap_se"] == pytest.approx(there["gap_se"], rel=0.01)


@pytest.mark.long
def test_wrong_input_is_said_once(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["data"]["sources"] = [{"path": str(tmp_path / "nowhere")}]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "inheritune",
         "run", str(write_recipe(tree)), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("error: data.sources") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_process_that_hangs_ends_the_job_with_a_word(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text) | {"hardware": {"device": "cpu", "timeout": "0.15 minutes"}}
    tree["train"]["length"] = "5K steps"
    tree["reference"]["train"]["length"] = "5K steps"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "inheritune", "run"]
    metrics = tmp_path / "run" / "reference" / "metrics.jsonl"
    with subprocess.Popen(
        [sys.executable, *words, str(write_recipe(tree)), "--out", str(tmp_path / "run")], stderr=subprocess.PIPE,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as begun:  # fmt: skip
        until = time.monotonic() + 90
        while not metrics.exists() or metrics.read_text().count("\n") < 5:
            assert begun.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        found = subprocess.run(["pgrep", "-P", str(begun.pid)], capture_output=True, text=True, check=True).stdout
        stopped = int(found.split()[-1])
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert begun.stderr is not None
            said = ""
            while "did not answer" not in said and (line := begun.stderr.readline()):
                said += line
            os.kill(stopped, signal.SIGKILL)  # torchrun would wait half a minute before it does so
            said += begun.communicate(timeout=120)[1]
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(begun.pid)], check=False)
            begun.kill()
    assert begun.returncode == 1
    assert "another process of the job ended or did not answer (hardware.timeout)" in said
