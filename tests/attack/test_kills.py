"""What the attack by kills sees: a killed result that differs in a bit, that is cut short, or that leaves something."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.attack.outcome import differences, digest, leftovers, outcome

from inheritune.runlog import duration


def make(folder: Path, weight: float = 1.0, loss: float = 2.0, seconds: float = 3.0) -> Path:
    (folder / "out" / "empty").mkdir(parents=True)
    save_file({"w": np.array([weight, 0.0], np.float32)}, folder / "out" / "model.safetensors")
    (folder / "out" / "summary.json").write_text(json.dumps({"loss": loss, "wall_seconds": seconds}))
    record = json.dumps({"step": 1, "loss": loss, "tokens_per_second": seconds})
    (folder / "out" / "metrics.jsonl").write_text(record + "\n")
    (folder / "out" / "report.md").write_text(
        f"took {duration(seconds)}\n\nIt was started {seconds:.0f} times; the first."
    )
    (folder / "out" / "link").symlink_to("empty")
    (folder / "out" / ".lock").touch()
    return folder


def test_what_counts_as_a_difference(tmp_path: Path) -> None:
    expected = outcome(make(tmp_path / "a"), ("out",))
    assert len(expected) == 6
    assert differences(outcome(make(tmp_path / "b", seconds=80.0), ("out",)), expected) == []
    bit = float(np.nextafter(np.float32(1), np.float32(2)))
    assert differences(outcome(make(tmp_path / "c", weight=bit), ("out",)), expected) == [
        "differs: out/model.safetensors"
    ]
    wrong = differences(outcome(make(tmp_path / "d", loss=2.0000000001), ("out",)), expected)
    assert wrong == ["differs: out/metrics.jsonl", "differs: out/summary.json"]
    (tmp_path / "b" / "out" / "report.md").rename(tmp_path / "b" / "out" / "page.md")
    wrong = differences(outcome(tmp_path / "b", ("out",)), expected)
    assert wrong == ["missing: out/report.md", "should not be there: out/page.md"]


@pytest.mark.parametrize("name", ["model.safetensors", "summary.json", "metrics.jsonl"])
def test_a_file_cut_short_has_no_digest(tmp_path: Path, name: str) -> None:
    file = make(tmp_path) / "out" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"."):
        digest(file)


def test_of_checkpoints_the_newest_counts(tmp_path: Path) -> None:
    """Which older ones are there depends on where a stop signal had one saved."""
    for name, steps in (("a", (9, 12)), ("b", (10, 12)), ("c", (9, 10))):
        for step in steps:
            folder = tmp_path / name / "out" / "checkpoints" / f"step-{step:09d}"
            folder.mkdir(parents=True)
            (folder / "checkpoint.json").write_text("{}", encoding="utf-8")
    expected = outcome(tmp_path / "a", ("out",))
    assert list(expected) == ["out/checkpoints/step-000000012/checkpoint.json"]
    assert differences(outcome(tmp_path / "b", ("out",)), expected) == []
    assert differences(outcome(tmp_path / "c", ("out",)), expected)[0].startswith("missing: ")


def test_what_is_left_behind(tmp_path: Path) -> None:
    assert leftovers(make(tmp_path)) == []  # the lock of a folder stays in it
    for name in (".out.lock", "out/.model.partial", ".lock"):
        (tmp_path / name).touch()
    assert leftovers(tmp_path) == [".lock", ".out.lock", "out/.model.partial"]
