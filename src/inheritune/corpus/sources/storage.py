"""Local files and fsspec addresses, and the unpacked bytes of a file, block by block."""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from inheritune.errors import InherituneError, InputError, RunError

BLOCK = 1 << 20
_PACKED_BLOCK = 1 << 16
_BITE = 1 << 9  # unpacked at once: 4 bytes of zstd may hold 128 KB of a text that repeats itself
_PADDING = 16_000_000  # bytes
_PACKED = {".gz": "gzip", ".dz": "gzip", ".zst": "zstd"}


class Damaged(ValueError):
    """A file cannot be read further: it is cut short, of another kind than its name, or has too large a document."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(what)


def is_remote(address: str) -> bool:
    """Whether it is an fsspec address, not a local path."""
    return "://" in address


def packing(address: str) -> str | None:
    """`gzip`, `zstd` or None, by the file's name."""
    return _PACKED.get(_name(address).suffix.lower())


def kind(address: str) -> str:
    """The suffix of a file's name in lower case, without .gz, .dz and .zst: `.jsonl`."""
    name = _name(address)
    return (PurePosixPath(name.stem) if name.suffix.lower() in _PACKED else name).suffix.lower()


def _name(address: str) -> PurePosixPath:
    if is_web(address):
        address = address.partition("?")[0].partition("#")[0]
    return PurePosixPath(address.partition("::")[0])


def is_web(address: str) -> bool:
    """Whether a plain web server has the file. Some of them can only send a file from its beginning."""
    return address.startswith(("http://", "https://"))


def connect(address: str) -> tuple[Any, str]:
    """The fsspec filesystem behind an address, and the path in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if is_web(address):
        import aiohttp

        # By default every download ends after five minutes; here the text is processed meanwhile.
        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=300)}
    filesystem, path = url_to_fs(address, **options)
    return filesystem, str(path)


def _explain(address: str, error: Exception, reading: bool) -> InherituneError:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError):
        # fsspec reports a server that does not answer as a missing file, with the reason as the cause.
        unreachable = f", or the server cannot be reached ({_line(cause)})" if isinstance(cause, Exception) else ""
        return InputError(address, f"no such file or folder{unreachable}", "correct the path")
    if isinstance(error, PermissionError):
        return InputError(address, "cannot be read (permission denied)", "change its permissions, or exclude it")
    if isinstance(error, ImportError):
        package = getattr(cause, "name", None) or error.name or "the package it names"
        return InputError(address, f"a package is missing to read it ({_line(error)})", f"pip install {package}")
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        remedy = "legal are paths, s3://, gs://, hf://, https:// and all that fsspec knows"
        return InputError(address, "no such kind of address", remedy)
    if reading:
        return RunError(address, f"cannot be read any more ({_line(error)})", "repair the disk or network, start again")
    return InputError(address, f"cannot be reached ({_line(error)})", "check the address, the network and your rights")


def _line(error: BaseException) -> str:
    words = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{type(error).__name__}: {words[:200]}".rstrip(": ")


@contextlib.contextmanager
def explained(address: str, reading: bool = True) -> Iterator[None]:
    """Turn the errors of a storage back end into InputError, or while `reading` RunError."""
    try:
        yield
    except (InherituneError, Damaged):
        raise
    except Exception as error:
        raise _explain(address, error, reading) from None


@contextlib.contextmanager
def open_bytes(address: str, seeking: bool = False) -> Iterator[Any]:
    """The file as it is stored, opened to be read from its beginning, or with `seeking` at any place."""
    if not is_remote(address):
        with open(address, "rb") as file:  # noqa: PTH123 (pathlib would change some paths)
            yield file
        return
    filesystem, path = connect(address)  # kept to the end: an archive's filesystem closes the file when it is dropped
    # One request for the whole file, which every web server understands.
    options = {"block_size": 0} if is_web(address) and not seeking else {}
    with filesystem.open(path, "rb", **options) as file:
        yield file


def blocks(address: str, start: int = 0) -> Iterator[bytes]:
    """The file's bytes from `start`, unpacked, in blocks of about a megabyte or less.

    Raises Damaged, after all blocks before that place, for a packed file that is cut short or broken; InputError for a
    file that is missing or unreadable; RunError for one that fails while it is read.
    """
    with explained(address), open_bytes(address, seeking=start > 0) as file:
        how = packing(address)
        if how is not None:
            yield from _unpacked(file, how)
            return
        if start:
            file.seek(start)
        while block := file.read(BLOCK):
            yield block


def _unpacked(file: Any, how: str) -> Iterator[bytes]:
    begin, broken = _unpacker(how)
    unpacker: Any = None
    padding = 0
    for packed in _bites(file):
        while packed:
            if unpacker is None:
                padding += len(packed)
                packed = packed.lstrip(b"\0")  # padding between members, which tapes and some tools write
                if padding - len(packed) > _PADDING:
                    raise Damaged(f"more than {_PADDING:,} zeros, no {how} data", "fetch the file again, or exclude it")
                if not packed:
                    break
                unpacker, padding = begin(), 0
            try:
                block = unpacker.decompress(packed)
            except broken as error:
                raise Damaged(f"not {how}, or damaged ({error})", "fetch the file again, or exclude it") from None
            if block:
                yield block
            packed = b""
            if unpacker.eof:
                packed, unpacker = unpacker.unused_data, None
    if unpacker is not None:
        raise Damaged(f"the {how} file is cut short", "fetch the file again, or exclude it")


def _bites(file: Any) -> Iterator[bytes]:
    while stored := file.read(_PACKED_BLOCK):
        for at in range(0, len(stored), _BITE):
            yield stored[at : at + _BITE]


def _unpacker(how: str) -> tuple[Callable[[], Any], type[Exception]]:
    """A function that begins a member of a packed file, and the class of its errors."""
    if how == "gzip":
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
