"""A run that is killed and started again ends with the weights of one that was never killed, bit for bit.

Two instants for the quick tests; tests/attack/kills.py kills all commands at any instant.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import read_json, tiny_recipe, weights
from inheritune.runlog import read_metrics
from processes import Started, program

pytestmark = pytest.mark.long


def recipe(text: Path) -> dict[str, Any]:
    """Both rounds are always trained, and every stage is long enough to be hit."""
    tree = tiny_recipe(text)
    tree["train"] |= {"length": "28 steps", "checkpoint": {"every": "7 steps"}}
    tree["reference"]["train"]["length"] = "28 steps"
    tree["hardware"] = {"threads": 2}  # equal bits must not depend on a single thread
    tree["grow"] = {"by": 1, "until": "max_layers", "max_layers": 2}
    return tree


def outcome(run: Path) -> dict[str, Any]:
    """All weights of the run, and every metric that is not a time."""
    found: dict[str, Any] = {
        str(path.parent.relative_to(run)): weights(path.parent) for path in run.rglob("model/model.safetensors")
    }
    for path in run.rglob("metrics.jsonl"):
        records = read_metrics(path)
        found[str(path.relative_to(run))] = [(r["step"], r.get("loss"), r.get("val_loss")) for r in records]
    return found


@pytest.fixture(scope="module")
def straight(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    import yaml

    place = tmp_path_factory.mktemp("straight")
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(text)), encoding="utf-8")
    done = program("run", path, "--out", place / "run")
    assert done.returncode == 0, done.stderr
    found = outcome(place / "run")
    assert len([name for name in found if name.endswith("model")]) == 4  # reference, two rounds, control
    return path, found


def finish(path: Path, run: Path, expected: dict[str, Any]) -> None:
    done = program("run", path, "--out", run)
    assert done.returncode == 0, done.stderr
    assert outcome(run) == expected
    assert read_json(run / "summary.json")["finished"] is True
    leftovers = [file for file in run.rglob(".*") if file.name != ".lock"]
    assert leftovers == []


def test_killed_in_a_round_it_ends_with_the_same_bits(straight: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, expected = straight
    begun = Started("run", path, "--out", tmp_path / "run", "--quiet")
    begun.wait_until((tmp_path / "run/rounds/1-1layers/checkpoints/step-000000007").exists)
    begun.send(signal.SIGKILL)
    assert begun.wait() == -signal.SIGKILL
    finish(path, tmp_path / "run", expected)


@pytest.mark.parametrize("moment", ["rounds", "data"])
def test_sigterm_exits_with_130_at_any_stage(
    straight: tuple[Path, dict[str, Any]], tmp_path: Path, moment: str
) -> None:
    """In training, while a model is saved or judged, between stages: never a success, and nothing lost."""
    path, expected = straight
    begun = Started("run", path, "--out", tmp_path / "run")
    begun.wait_until((tmp_path / "run" / moment).exists)
    begun.send(signal.SIGTERM)
    done = begun.end()
    assert done.returncode == 130, done.stderr
    assert "run the same command again" in done.stderr.splitlines()[-1]
    finish(path, tmp_path / "run", expected)
