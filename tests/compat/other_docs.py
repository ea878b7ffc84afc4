"""The Python with mkdocs, nbconvert and build, named by INHERITUNE_DOCS_PYTHON (`make compat` sets it)."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("INHERITUNE_DOCS_PYTHON", ".venv-docs/bin/python")).absolute()


def run(*words: str | Path, cwd: Path = ROOT, python: Path = PYTHON, **variables: str) -> str:
    """Run a Python with `words`, away from the tests' own PYTHONPATH; what it prints. Fails where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [python, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
