"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from inheritune.errors import DamagedFile, InputError
from inheritune.limits import RESULT_BYTES, read_bytes

_LONGEST = 240  # bytes of a name: what is written first has a longer one, and most file systems take 255
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
        _sync_folder(path.parent)


def open_new(path: Path) -> BinaryIO:
    """Open a file to be written from its beginning, without following a link: what it names stays as it is.

    Raises InputError where a link, or something that is no plain file, has that name.
    """
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT, empty=True), "wb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to be written at its end, in the same way as `open_new`."""
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, empty=False), "ab")


def _open_own(path: Path, flags: int, empty: bool) -> int:
    """A descriptor of a plain file that has this one name. Nothing is changed before that is known."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK) or path.is_symlink():
            raise _no_plain_file(path) from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise _no_plain_file(path)
        if empty:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_plain_file(path: Path) -> InputError:
    what = "is a link, or no plain file; writing to it would change something else"
    return InputError(str(path), what, "see who put it there, and remove it")


def refuse_link(folder: Path) -> None:
    """Raise InputError where a link has the name of a folder that is to be written."""
    if folder.is_symlink():
        raise InputError(str(folder), "is a link, and a folder is written there", "remove the link")


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


def read_json(path: Path, *keys: str, remedy: str = _REMEDY) -> Any:
    """Read a JSON file of ours. With `keys` it must be a mapping that has them; `a.b` is the key b of the mapping a.

    Raises DamagedFile, which names the file and `remedy`, where it is not JSON or lacks one.
    """
    try:
        found = json.loads(read_bytes(path, RESULT_BYTES))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(str(path), f"damaged: {error}", remedy) from None
    for key in keys:
        inner = found
        for part in key.split("."):
            if not isinstance(inner, dict):
                raise DamagedFile(str(path), "damaged: not a mapping of keys", remedy)
            if part not in inner:
                raise DamagedFile(str(path), f"damaged: it has no {key!r}", remedy)
            inner = inner[part]
    return found


def read_mapping(path: Path, *keys: str, remedy: str = _REMEDY) -> dict[str, Any]:
    """As `read_json`, where the file must be a mapping even without `keys`."""
    found = read_json(path, *keys, remedy=remedy)
    if not isinstance(found, dict):
        raise DamagedFile(str(path), "damaged: not a mapping of keys", remedy)
    return found


def check_name(path: Path) -> None:
    """Raise InputError for a name that no output may have: libraries that write take UTF-8 only, and files that are
    not whole yet have a longer name beside it.
    """
    name = os.fsencode(path.name) if "\0" not in str(path) else b""
    if "\0" in str(path):
        raise InputError(repr(str(path)), "a NUL character in the path", "give a path without it")
    if len(name) > _LONGEST:
        raise InputError(f"{str(path)[:100]}...", f"a name of {len(name)} bytes", f"give one of at most {_LONGEST}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(repr(str(path)), "the path is not UTF-8", "give a path that is") from None


@contextmanager
def new_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """A folder to fill, which appears at `path` when the block ends without an error; else nothing is left.

    An older folder at `path` is replaced; a link there is refused (InputError). When `durable`, every file reaches the
    disk before the name does, so that it outlives a loss of power; else the system writes it in its own time, as after
    `cp`.
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
    usual = folder.stat().st_mode & 0o666  # made by plain means; to ask for the umask would change it for all threads
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

    The system gives the lock back when this process ends, however it ends. Raises InputError where another one has it,
    and where `.lock` is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":  # no such lock there
        yield
        return
    with open_new(folder / ".lock") as file:
        _lock(file.fileno(), folder)
        yield


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep other processes from making the file or folder `path` meanwhile; where the file system has no locks, not.

    The lock is the file .NAME.lock beside it, which goes when this is done. Folders above are made; those that are
    empty in the end go too. Raises InputError where another process is making it.
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
            place.unlink(missing_ok=True)  # while it is held, so that nobody can hold a file without a name
            os.close(file)
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


def remove_old_claim(path: Path) -> None:
    """Remove the lock of `claimed` that a killed process left beside `path`; where a process holds it, it stays."""
    if path.with_name(f".{path.name}.lock").exists():
        with contextlib.suppress(InputError), claimed(path):
            pass


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of this folder; where the file system has no locks, not.

    For what takes a moment: unlike `locked` and `claimed` it refuses nobody, and no file is made.
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
    """The open file `place`, locked. Another process may take its name away between opening and locking."""
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
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise InputError(
            str(path), "another process is at work in it", "wait for that one, or give another folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):  # some shared file systems'
            raise


def is_own(file: Path, folder: Path) -> bool:
    """Whether `file`, in `folder`, is a plain file whose content lies in that folder, not behind a link to elsewhere.

    In a snapshot of Hugging Face's cache files are links to blobs/ of the same model, which belong to it.
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
    """Copy the files of a folder into another, which may be there. Raises InputError for links that lead out of it."""
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
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Make a rename in this folder outlive a crash; systems that cannot open folders have nothing to sync."""
    if os.name == "posix":
        _sync(path)
