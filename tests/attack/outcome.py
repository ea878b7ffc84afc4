"""What a command has made, without what two undisturbed runs differ in: dates, durations and peaks of memory."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

_MEASURED = re.compile(r"(.*_)?seconds(_.*)?|tokens_per_second|peak_memory_bytes|starts|checksums?|resumed")
_NUMBER = re.compile(r"\d+ h \d+ min|\d+ min \d+ s|\d+([.,]\d+)*(e[+-]?\d+)?( ?(ms|s|min|h)\b)?")
_STARTS = re.compile(r"\n*.*\bwas started \d+ times;.*")


def outcome(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """A digest of each file, link and empty folder under `names` in `folder`, by its path.

    Of a training's checkpoints, the newest one counts: a stop signal saves one more, in whose place an older one goes.
    """
    found: dict[str, str] = {}
    for name in names:
        for path in sorted([folder / name, *(folder / name).rglob("*")]):
            place = str(path.relative_to(folder))
            if _is_older_checkpoint(path):
                continue
            if path.is_symlink():
                found[place] = f"a link to {path.readlink()}"
            elif path.is_file() and path.name != ".lock" and not path.name.endswith("-verified.json"):  # has times
                found[place] = digest(path)
            elif path.is_dir() and not any(path.iterdir()):
                found[place] = "an empty folder"
    return found


def _is_older_checkpoint(path: Path) -> bool:
    for inner in (path, *path.parents):
        if inner.name.startswith("step-") and inner.parent.name == "checkpoints":
            return inner.name != max(entry.name for entry in inner.parent.glob("step-*"))
    return False


def digest(path: Path) -> str:
    """A hash of a file's content. Raises ValueError where it is cut short or not what its name says."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = _as_bytes(json.loads(content))
    elif path.suffix == ".jsonl":
        content = _as_bytes([json.loads(line) for line in content.splitlines()])
    elif path.suffix == ".safetensors":
        content = _tensors(path)
    elif path.suffix in (".md", ".html"):  # their numbers are those of JSON files, some of them measured
        content = _NUMBER.sub("#", _STARTS.sub("", content.decode())).encode()
    return hashlib.sha256(content).hexdigest()


def _as_bytes(value: Any) -> bytes:
    return json.dumps(_unmeasured(value), sort_keys=True).encode()


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmeasured(inner) for key, inner in value.items() if not _MEASURED.fullmatch(key)}
    return [_unmeasured(inner) for inner in value] if isinstance(value, list) else value


def _tensors(path: Path) -> bytes:
    """Names, types, shapes and bytes of all tensors. What the header says besides comes in any order."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            found = [
                (name, str(tensor.dtype), tensor.shape, hashlib.sha256(tensor.tobytes()).hexdigest())
                for name, tensor in sorted((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
            ]
            return repr((sorted((file.metadata() or {}).items()), found)).encode()
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def leftovers(folder: Path) -> list[str]:
    """What a finished command has not tidied away; the lock of a folder stays in it."""
    hidden = (path for path in folder.rglob(".*") if not (path.name == ".lock" and path.parent != folder))
    return sorted(str(path.relative_to(folder)) for path in hidden)


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The paths that are missing, that should not be there, and whose content is another."""
    wrong = [f"missing: {name}" for name in expected if name not in found]
    wrong += [f"should not be there: {name}" for name in found if name not in expected]
    return wrong + [f"differs: {name}" for name in found if name in expected and found[name] != expected[name]]
