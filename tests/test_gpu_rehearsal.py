"""`make gpu` without a GPU: every part runs on tiny shapes, and what is measured is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
PARTS = ["tests", "bench", "recovery", "table5", "analysis", "single"]


def rehearse(out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, str(SCRIPT), "--out", str(out), *more]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.long
def test_all_parts_run_and_keep_what_they_measured(tmp_path: Path) -> None:
    done = rehearse(tmp_path, "--rehearsal")
    logs = "\n".join(file.read_text()[-1500:] for file in tmp_path.glob("*.log")) if done.returncode else ""
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found, tables = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "tables.md").read_text()
    assert list(found["parts"]) == PARTS
    states = {case: one["state"] for part in found["parts"].values() for case, one in part.items()}
    assert {case for case, state in states.items() if state != "done"} == {"offload: true"}
    for case in ("bfloat16, compiled", "float8", "checkpointing"):
        assert found["parts"]["bench"][case]["figures"]["tokens/s"] > 0
        assert f"| {case} |" in tables
    arms = [row["arm"] for row in found["parts"]["recovery"]["recovery"]["figures"]["rows"]]
    assert arms == ["reference", "plain", "recovered"]
    assert found["parts"]["tests"]["tests"]["figures"]["passed"] >= 3
    again = rehearse(tmp_path, "--rehearsal", "--parts", "single", "--minutes", "0.03")  # too short for any case
    assert again.returncode == 0
    kept = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {one["state"] for one in kept["single"].values()} == {"skipped"}
    assert kept["bench"] == found["parts"]["bench"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = rehearse(tmp_path, "--parts", "bench")
    assert done.returncode == 1
    assert "cuda is not on this machine" in done.stderr
    wrong = rehearse(tmp_path, "--parts", "benchmark")
    assert wrong.returncode == 2
    assert "there are tests, bench, recovery" in wrong.stderr
