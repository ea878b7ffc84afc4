"""Files and folders that appear whole or not at all, and locks."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from inheritune.errors import DamagedFile, InputError
from inheritune.limits import RESULT_BYTES, read_bytes
from inheritune.runlog.log import logger

_PAUSE = 1.0  # seconds between two looks at a lock
_LONGEST = 240  # bytes of a name: an unfinished file has a longer one, and most file systems allow 255
_REMEDY = "delete it; the stage that wrote it is then done again"


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does.

    A file name in the text that is not UTF-8 is written with escapes, which JSON reads back as the same name.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes, suffix: str = "partial") -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    It is first written beside its place, as .NAME.SUFFIX. Processes that may write the same file at once need
    different suffixes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{suffix}")
    with named(path):
        file = open_new(partial)
        try:
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def open_new(path: Path) -> BinaryIO:
    """Open a file to be written from its beginning. A link is not followed, so its target does not change.

    Raises InputError where the path is a link, or no plain file.
    """
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT, empty=True), "wb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to be written at its end, as `open_new` does."""
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, empty=False), "ab")


def _open_own(path: Path, flags: int, empty: bool) -> int:
    """A descriptor of a plain file without other names, which is checked before anything changes."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK) or path.is_symlink():
            raise _no_plain_file(path) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise _no_plain_file(path)
        if empty:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_plain_file(path: Path) -> InputError:
    what = "is a link, or no plain file; writing to it would change something else"
    return InputError(str(path), what, "find out who put it there, and remove it")


def refuse_link(folder: Path) -> None:
    """Raise InputError where a folder that is to be written is a link."""
    if folder.is_symlink():
        raise InputError(str(folder), "is a link, and a folder is written there", "remove the link")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the disk: those of an open file have none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. A number that is not finite is an error, as JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str = _REMEDY) -> Any:
    """Read a JSON file of ours. Raises DamagedFile, which names the file and `remedy`, where it is not JSON."""
    try:
        return json.loads(read_bytes(path, RESULT_BYTES))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(str(path), f"damaged: {error}", remedy) from None


def read_mapping(path: Path, *keys: str, remedy: str = _REMEDY) -> dict[str, Any]:
    """As `read_json`; also raises DamagedFile where the file is no mapping or lacks one of `keys`."""
    mapping = read_json(path, remedy)
    if not isinstance(mapping, dict):
        raise DamagedFile(str(path), "damaged: not a mapping of keys", remedy)
    for key in keys:
        if key not in mapping:
            raise DamagedFile(str(path), f"damaged: it has no {key!r}", remedy)
    return mapping


def check_name(path: Path) -> None:
    """Raise InputError for a name that no output may have: too long, or not UTF-8, which libraries may refuse."""
    if "\0" in str(path):
        raise InputError(repr(str(path)), "a NUL character in the path", "give a path without it")
    length = len(os.fsencode(path.name))
    if length > _LONGEST:
        raise InputError(f"{str(path)[:100]}...", f"a name of {length} bytes", f"give one of at most {_LONGEST}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(repr(str(path)), "the path is not UTF-8", "give a path that is") from None


@contextmanager
def new_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """A folder to fill, which appears at `path` when the block ends without an error; otherwise it is removed.

    An older folder at `path` is replaced; a link there is refused (InputError). When `durable`, every file is on the
    disk before the folder gets its name, so a loss of power cannot damage it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    refuse_link(partial)
    refuse_link(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        put_in_place(partial, path, durable)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def put_in_place(partial: Path, path: Path, durable: bool = True) -> None:
    """Give a finished folder its name, and replace an older one; when `durable`, after all of it is on the disk."""
    _open_to_others(partial)
    if durable:
        for file in [*sorted(partial.rglob("*")), partial]:
            _sync(file)
    if path.exists():
        shutil.rmtree(path)
    partial.replace(path)
    if durable:
        _sync(path.parent)


def _open_to_others(folder: Path) -> None:
    """Give everything in `folder` the permissions that the process's umask allows.

    Some libraries (safetensors) write a temporary file that only its owner may read, and rename it.
    """
    usual = folder.stat().st_mode & 0o666  # the umask, which cannot be asked for without changing it for all threads
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | usual | ((usual & 0o444) >> 2 if path.is_dir() else 0)
        if wanted != mode:  # some file systems refuse any change
            path.chmod(wanted)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing. Some file systems have no locks.

    The system releases the lock when this process ends, however it ends. With `wait`, waits for another process that
    has it, and says so. Raises InputError where another process has it and `wait` is False, and where `.lock` is a
    link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_new(folder / ".lock") as file:
        is_said = False
        while True:
            try:
                _lock(file.fileno(), folder)
                break
            except InputError:
                if not wait:
                    raise
            if not is_said:
                logger.info(f"{folder}: another process is at work in it; waiting for its result")
                is_said = True
            time.sleep(_PAUSE)  # not a lock that blocks, so that signals are seen
        yield


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep other processes from making the file or folder `path`. Some file systems have no locks.

    The lock is the file .NAME.lock beside it, which is removed at the end. Folders above are made, and removed where
    they end up empty. Raises InputError where another process is making `path`.
    """
    check_name(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if os.name != "posix":
            yield
            return
        place = path.with_name(f".{path.name}.lock")
        file = _open_lock(place, path)
        try:
            yield
        finally:
            place.unlink(missing_ok=True)  # while it is locked, so that nobody can lock a file without a name
            os.close(file)
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


def remove_old_claim(path: Path) -> None:
    """Remove the lock of `claimed` that a killed process left beside `path`, unless a process holds it."""
    if path.with_name(f".{path.name}.lock").exists():
        with contextlib.suppress(InputError), claimed(path):
            pass


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of this folder. Some file systems have no locks.

    For short work: unlike `locked` and `claimed` it refuses nobody and makes no file.
    """
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, wait=True)
        yield
    finally:
        os.close(descriptor)


def _open_lock(place: Path, path: Path) -> int:
    """Open and lock the file `place`, which another process may remove between the two."""
    while True:
        file = _open_own(place, os.O_RDWR | os.O_CREAT, empty=False)
        try:
            _lock(file, path)
            if place.exists() and os.path.samestat(place.stat(), os.fstat(file)):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path, wait: bool = False) -> None:
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        what, remedy = "another process is at work in it", "wait for that one, or give another folder"
        raise InputError(str(path), what, remedy) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):  # some shared file systems'
            raise


def is_own(file: Path, folder: Path) -> bool:
    """Whether `file`, in `folder`, is a plain file of that folder, not a link that leads out of it.

    In a snapshot of Hugging Face's cache, files are links to blobs/ of the same model, which belong to it.
    """
    try:
        place, root = file.resolve(strict=True), folder.resolve(strict=True)
        if not stat.S_ISREG(place.stat().st_mode):
            return False
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return False
    if place.is_relative_to(root):
        return True
    for above in root.parents:
        if above.name == "snapshots" and above.parent.name.startswith("models--"):
            return place.is_relative_to(above.parent / "blobs")
    return False


def copy_own(source: Path, target: Path) -> None:
    """Copy the files of a folder into another, which may exist. Raises InputError for links that lead out of it."""
    for file in sorted(source.rglob("*")):
        inner = target / file.relative_to(source)
        if file.is_dir() and not file.is_symlink():
            inner.mkdir(parents=True, exist_ok=True)
        elif is_own(file, source):
            inner.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, inner)
        else:
            raise InputError(str(file), "is a link that leads out of its folder", "put the file itself there")


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk; some systems cannot open folders."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
