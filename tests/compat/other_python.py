"""A Python with transformers 4, named by INHERITUNE_COMPAT_PYTHON (`make compat` sets it), and what it makes of files."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any


def read_by_4(place: Path) -> dict[str, Any]:
    """What the other Python makes of the folders in `place`; see reader.py."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python, reader = os.environ["INHERITUNE_COMPAT_PYTHON"], Path(__file__).with_name("reader.py")
    done = subprocess.run(
        [python, "-W", "ignore", str(reader), str(place)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
