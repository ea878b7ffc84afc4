"""manifest.json: the versions, machine and settings that a run was made with."""

import contextlib
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

_PACKAGES = ("inheritune", "torch", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "accelerate")
_DECISIVE = ("versions", "machine", "device", "threads", "processes", "micro_batch")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect results."""
    return {"python": platform.python_version()} | package_versions(_PACKAGES)


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of these packages, or `not installed`."""
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def note_start(path: Path, facts: dict[str, Any]) -> list[str]:
    """Record this start of the run in its manifest, and return in words what differs from the first start.

    A run also resumes on another machine or version, but then its numbers may differ from an uninterrupted run's.
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
        raise DamagedFile(str(path), "damaged: 'starts' is not a list", "delete it; it is then written again")
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
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
