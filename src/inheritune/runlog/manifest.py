"""manifest.json: with what a run was made."""

import datetime
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from inheritune.errors import DamagedFile
from inheritune.redaction import confidential
from inheritune.runlog.files import read_mapping, write_json

_PACKAGES = (
    "inheritune",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gguf",
    "accelerate",
)
_DECISIVE = ("versions", "machine", "device", "threads", "processes", "micro_batch")


def versions() -> dict[str, str]:
    """Python's and the packages' versions, as far as they are installed."""
    return {"python": platform.python_version()} | package_versions(_PACKAGES)


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of these packages, as far as they are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def note_start(path: Path, facts: dict[str, Any]) -> list[str]:
    """Record this start of the run in its manifest and return what differs from the first start, in words.

    A run goes on with another machine or version too, but its numbers need not be bit-equal to an uninterrupted one's.
    """
    start = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": confidential(sys.argv),
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()} {_processor()}",
        **facts,
    }
    manifest = read_mapping(path, "starts") if path.exists() else {"starts": []}
    if not isinstance(manifest["starts"], list):
        raise DamagedFile(str(path), "damaged: 'starts' is not a list", "delete it; it is then written anew")
    manifest["starts"].append(start)
    write_json(path, manifest)
    first = manifest["starts"][0]
    return [f"{key} was {first.get(key)}, is {start.get(key)}" for key in _DECISIVE if first.get(key) != start.get(key)]


def add_lineage(path: Path, lineage: dict[str, Any]) -> None:
    """Record where the reference came from."""
    manifest = read_mapping(path)
    manifest["lineage"] = confidential(lineage)
    write_json(path, manifest)


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
