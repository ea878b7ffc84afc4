"""The core of the tests with the lowest versions that pyproject.toml allows (requirements-lowest.lock).

`make compat` makes that environment and names its Python in INHERITUNE_LOWEST_PYTHON.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ["tests/inheritance", "tests/training", "tests/recipe", "tests/experiment", "tests/test_conversion.py"]
NOT_RUN = {
    "torch"
}  # its lowest version needs packages for GPUs; requirements-lowest.lock has that of requirements.lock


def lowest(line: str) -> tuple[str, str] | None:
    """The name and the lowest version of a dependency."""
    found = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?>=([0-9][0-9a-z.]*)", line)
    return None if found is None else (found[1].lower().replace("_", "-"), found[2])


def test_the_lock_has_the_lowest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements-lowest.lock").read_text(encoding="utf-8").lower().splitlines()
    locked = dict(line.replace("_", "-").split("==") for line in lines if "==" in line)
    bounds = [found for line in project["dependencies"] if (found := lowest(line)) is not None]
    assert len(bounds) == len(project["dependencies"])
    for name, version in bounds:
        if name not in NOT_RUN:
            assert re.fullmatch(rf"{re.escape(version)}(\.[0-9]+)*", locked[name]), (name, version, locked[name])


@pytest.mark.long
def test_the_core_of_the_tests_passes_with_them() -> None:
    python = os.environ["INHERITUNE_LOWEST_PYTHON"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INHERITUNE")}
    # newer packages than the bounds' own, as click, warn of their future
    command = [python, "-m", "pytest", "-q", "-n", "2", "-m", "not long", "-W", "ignore::DeprecationWarning", *CORE]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
