"""Files that appear whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inheritune.errors import InputError, RunError


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with named(path):
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A full disk is told with the file's name, which writing to an open file leaves out."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. A number that is not finite is an error, as JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; raises RunError that names it when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(
            str(path), f"damaged: {error}", "delete it; the stage that wrote it is then done again"
        ) from None


@contextmanager
def new_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """A folder to fill, which appears at `path` when the block ends without an error; else nothing is left.

    An older folder at `path` is replaced. When `durable`, every file reaches the disk before the name does, so that
    it outlives a loss of power; else the system writes it in its own time, as after `cp`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        put_in_place(partial, path, durable)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def put_in_place(partial: Path, path: Path, durable: bool = True) -> None:
    """Give a finished folder its name, in place of an older one; when `durable`, once all of it is on the disk."""
    _open_to_others(partial)
    if durable:
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                _sync(file)
            else:
                _sync_folder(file)
        _sync_folder(partial)
    if path.exists():
        shutil.rmtree(path)
    partial.replace(path)
    if durable:
        _sync_folder(path.parent)


def _open_to_others(folder: Path) -> None:
    """Give everything in `folder` the permissions that the process's umask allows, as plain writing does.

    Some libraries write by way of a temporary file that only its owner may read, and leave it so (safetensors does).
    """
    probe = folder / ".permissions"
    probe.touch()
    usual = probe.stat().st_mode & 0o666  # asking for the umask itself would change it for all threads
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | usual
        if path.is_dir():
            wanted |= (usual & 0o444) >> 2
        if wanted != mode:
            path.chmod(wanted)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing; where the file system has no locks, not.

    The system gives the lock back when this process ends, however it ends. Raises InputError where another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":  # no such lock there
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                str(folder), "another process is at work in it", "wait for that one, or give another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # some shared file systems'
                raise
        yield


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Make a rename in this folder outlive a crash; systems that cannot open folders have nothing to sync."""
    if os.name == "posix":
        _sync(path)
