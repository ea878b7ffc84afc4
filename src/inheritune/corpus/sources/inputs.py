"""The inputs: files and streams of the sources, their sizes, and their division into tasks."""

import fnmatch
import glob
import itertools
import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from inheritune.corpus.sources.saved import DEFAULT_SPLIT, SAVED, saved_files
from inheritune.corpus.sources.storage import Damaged, connect, explained, is_remote, is_web, kind, packing
from inheritune.corpus.sources.streaming import open_stream
from inheritune.errors import InputError, check_all
from inheritune.recipe import Size, Source
from inheritune.recipe.data import DocumentRule

_RANGE = 256_000_000
_PACKED = 4  # bytes of text in a byte of a compressed file
_NO_FILE = "a pipe, socket or device, not a file"
_LOOKED_AT = 10_000  # files of a folder that are named in an error
_DEFAULT_INCLUDE = Source.model_fields["include"].default
TABLES = (".parquet", ".arrow")  # rows in a binary form, whose texts are UTF-8
_RECORDS = (".jsonl", ".ndjson", ".csv", *TABLES)


@dataclass(frozen=True, slots=True)
class Input:
    """A file, a range of a file, or a stream, which one task reads from beginning to end."""

    source: int
    """Number of its source."""
    address: str
    """A local path, an fsspec address, or the id of a data set."""
    size: int | None
    """Bytes of the whole file as it is stored; None for streams, and where the server does not tell it."""
    start: int = 0
    """A range has the lines that begin at `start` or later ..."""
    end: int | None = None
    """... and before `end`; None: up to the end of the file."""
    encoding: str = "utf-8"
    """The encoding of the source; `transcoding.settled` turns it into that of the file."""
    guessed: bool = False
    """Whether `auto` decided it."""

    @property
    def length(self) -> int | None:
        """Bytes to read, None where it is unknown."""
        return None if self.size is None else (self.size if self.end is None else self.end) - self.start

    @property
    def text_bytes(self) -> int:
        """The approximate bytes of text."""
        packed = packing(self.address) is not None or kind(self.address) == ".parquet"
        return (self.length or 0) * (_PACKED if packed else 1)


def state_of(entry: Input) -> dict[str, Any]:
    """A description of an input, which changes when the file changes."""
    return {**asdict(entry), "file": _stamp(entry.address)}


def file_states(settings: Any) -> dict[str, Any]:
    """The files that settings name, and those in folders that they name, with their sizes and times."""
    values = itertools.chain.from_iterable(value if isinstance(value, list) else [value] for _, value in settings)
    roots = [path for path in values if isinstance(path, Path)]
    return {str(file): _stamp(str(file)) for root in roots for file in (root, *sorted(root.rglob("*")))}


def _stamp(file: str) -> list[int] | None:
    """Size and time of the last change; None where no such file is on this machine."""
    try:
        status = os.stat(file)  # noqa: PTH116 (text, as there may be millions)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def list_inputs(sources: Sequence[Source], range_bytes: int = _RANGE) -> list[Input]:
    """All inputs, source by source, sorted by address; each file of a source is there once, even with several links.

    Unpacked files whose documents are lines are split into ranges of about `range_bytes`, by the files alone. Raises
    InputError with all sources that have no text, cannot be reached or may not be read.
    """

    def inputs_of(number: int, source: Source) -> list[Input]:
        if source.dataset is None:
            return list(_files(number, source, range_bytes))
        open_stream(source)
        return [Input(number, source.dataset, None)]

    each = check_all(partial(inputs_of, number, source) for number, source in enumerate(sources))
    return list(itertools.chain.from_iterable(each))


def text_bytes(sources: Sequence[Source]) -> int | None:
    """About how many bytes of text local sources have, from the sizes of their files; None where one is elsewhere.

    Raises InputError as `list_inputs` does, so also where a folder is missing.
    """
    if any(source.dataset is not None or is_remote(source.path or "") for source in sources):
        return None
    return sum(entry.text_bytes for entry in list_inputs(sources))


def whole_files(source: Source) -> int | None:
    """How many documents a local source has, where each of its files is one; None for any other source."""
    if source.dataset is not None or is_remote(source.path or ""):
        return None
    entries = list_inputs([source])
    return len(entries) if all(rule_of(source, entry.address) == "file" for entry in entries) else None


def gather(inputs: Sequence[Input], bytes_per_task: int) -> list[list[Input]]:
    """Divide inputs into tasks in their order: neighbours share a task of at most `bytes_per_task`.

    An input of unknown size is a task of its own.
    """
    tasks: list[list[Input]] = []
    room = -1
    for entry in inputs:
        length = entry.length
        if length is not None and tasks and length <= room:
            tasks[-1].append(entry)
            room -= length
        else:
            tasks.append([entry])
            room = -1 if length is None else bytes_per_task - length
    return tasks


def rule_of(source: Source, address: str) -> DocumentRule | Size:
    """How this file of the source is divided into documents."""
    if source.messages_key is not None:
        return "record"
    if source.document != "auto":
        return source.document
    return "record" if kind(address) in _RECORDS else "file"


def _files(number: int, source: Source, range_bytes: int) -> Iterator[Input]:
    path = (source.path or "").replace("{stdlib}", sysconfig.get_path("stdlib")).removeprefix("file://")
    place = f"data.sources: {source.title}"
    files = dict(_remote(path, source) if is_remote(path) else _local(path, source, place))
    if not files:
        raise InputError(place, *_nothing_taken(path, source))
    if not any(size is None or size > 0 for size, _ in files.values()):
        raise InputError(place, "no text: every file is empty", "give files with text")
    if source.encoding not in ("utf-8", "auto") and all(kind(address) in TABLES for address in files):
        raise InputError(place, "encoding is for text files, and these are tables of UTF-8", "remove `encoding`")
    for address, (size, seekable) in sorted(files.items()):
        whole = Input(number, address, size, encoding=source.encoding)
        yield from _ranges(whole, source, range_bytes if seekable else None)


def _ranges(whole: Input, source: Source, range_bytes: int | None) -> Iterator[Input]:
    rule = rule_of(source, whole.address)
    lines = rule == "line" or (rule == "record" and kind(whole.address) not in (".csv", *TABLES))
    # In other encodings, a byte that looks like the end of a line may be half a character.
    divisible = lines and whole.encoding == "utf-8" and not packing(whole.address)
    if range_bytes is None or whole.size is None or whole.size <= range_bytes or not divisible:
        yield whole
        return
    for start in range(0, whole.size, range_bytes):
        yield replace(whole, start=start, end=min(start + range_bytes, whole.size))


def _local(path: str, source: Source, place: str) -> Iterator[tuple[str, tuple[int, bool]]]:
    path = os.path.expanduser(path)  # noqa: PTH111 (pathlib would change the pattern)
    # A name that exists is that file, even when it looks like a pattern.
    roots = [path] if _exists(path) else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not roots:
        what = "no file matches the pattern" if glob.has_magic(path) else "no such file or folder"
        raise InputError(place, what + ("" if path == source.title else f": {path}"), "correct the path")
    seen: set[str] = set()
    # Sorted first, so that the first of several names of a file is used.
    for file in sorted(name for root in roots for name in _below(root, source)):
        real = os.path.realpath(file)
        if real not in seen:
            seen.add(real)
            yield file, (_readable_size(file), True)


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except PermissionError:
        raise InputError(path, "cannot be read (permission denied)", "change the permissions of its folder") from None
    except OSError:
        return False
    return True


def _below(root: str, source: Source) -> Iterator[str]:
    """The files of a folder that the source takes, at every depth, also behind links to folders; or the file itself."""
    if not os.path.isdir(root):  # noqa: PTH112 (here and below: text, as there may be millions)
        _check_no_split(source, root)
        yield root
        return
    saved = _saved(source, root, lambda name: _content(os.path.join(root, name)))  # noqa: PTH118
    if saved is not None:
        yield from (os.path.join(root, name) for name in saved)  # noqa: PTH118
        return
    entered: set[tuple[int, int]] = set()  # a link may lead back up
    for folder, folders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in names:
            file = os.path.join(folder, name)  # noqa: PTH118
            if _taken(os.path.relpath(file, root).replace(os.sep, "/"), source):
                yield file


def _saved(source: Source, root: str, content: Callable[[str], bytes | None]) -> list[str] | None:
    """The files that the source takes of a folder that `datasets` saved; None for another folder."""
    try:
        files = saved_files(source.split, content)
    except Damaged as error:
        raise InputError(root, error.what, error.remedy) from None
    if files is None:
        _check_no_split(source, root)
        return None
    include = ["*"] if source.include == _DEFAULT_INCLUDE else source.include
    return [name for name in files if _matches(name, include) and not _matches(name, source.exclude)]


def _check_no_split(source: Source, root: str) -> None:
    if source.split != DEFAULT_SPLIT:
        what = f"split {source.split!r} is given, and it has no splits: `save_to_disk` has not written it"
        raise InputError(root, what, "remove `split`, or give a folder that `datasets` saved")


def _content(file: str) -> bytes | None:
    try:
        with open(file, "rb") as opened:  # noqa: PTH123
            return opened.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if not os.access(os.path.dirname(file), os.X_OK):  # noqa: PTH120 (then the folder itself is named)
            return None
        raise InputError(file, f"cannot be read ({error.strerror})", "change its permissions") from None


def _nothing_taken(root: str, source: Source) -> tuple[str, str]:
    """What is wrong and the remedy, where a folder has no file that the source takes."""
    walk = iter(()) if is_remote(root) else os.walk(os.path.expanduser(root))  # noqa: PTH111
    files = list(itertools.islice(((folder, name) for folder, _, names in walk for name in sorted(names)), _LOOKED_AT))
    saved = sorted(folder for folder, name in files if name in SAVED and source.include == _DEFAULT_INCLUDE)
    if saved:
        return "`datasets` saved data sets in folders of it", f"give each as a source of its own: path: {saved[0]}"
    counts = Counter(f"*{kind(name)}" if kind(name) else name for _, name in files)
    kinds = [name for name, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:5]]
    example = kinds[0] if kinds else "*.txt"
    if "*.arrow" in kinds:  # of all splits, in the cache of `datasets`
        example = min(name for _, name in files if kind(name) == ".arrow")
    what = f"no file there matches include {source.include}"
    what += f" less {source.exclude}" if source.exclude else ""
    what += f"; there are: {', '.join(kinds)}" if kinds else ""
    return what, f"set `include` to the names that hold the text, for example ['{example}']"


def _taken(below: str, source: Source) -> bool:
    return _matches(below, source.include) and not _matches(below, source.exclude)


def _matches(below: str, patterns: list[str]) -> bool:
    """A pattern without a slash is compared with the file's name, one with a slash with the path below the folder."""
    name = below.rpartition("/")[2]
    return any(fnmatch.fnmatch(below if "/" in pattern else name, pattern) for pattern in patterns)


def _unreadable(error: OSError) -> None:
    raise InputError(str(error.filename), f"cannot be read ({error.strerror})", "change its permissions, or exclude it")


def _readable_size(file: str) -> int:
    try:
        status = os.stat(file)  # noqa: PTH116
    except FileNotFoundError:
        what = "a link to a missing file" if os.path.islink(file) else "missing"  # noqa: PTH114
        raise InputError(file, what, "bring the file back, or exclude it") from None
    except OSError as error:
        raise InputError(file, f"cannot be read ({error.strerror})", "make it readable, or exclude it") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(file, _NO_FILE, "save its text to a file, or exclude it")
    if not os.access(file, os.R_OK):
        raise InputError(file, "cannot be read (permission denied)", "change its permissions, or exclude it")
    return status.st_size


def _remote(address: str, source: Source) -> Iterator[tuple[str, tuple[int | None, bool]]]:
    with explained(address, reading=False):
        filesystem, root = connect(address)
        # A question mark in a web address begins its query.
        signs = "*[" if is_web(address) else "*?["
        if any(sign in root for sign in signs):
            tops = filesystem.glob(root, detail=True)
            if not tops:
                raise InputError(f"data.sources: {source.title}", "no file matches the pattern", "correct the path")
        else:
            tops = {root: filesystem.info(root)}
        rest = address.partition("::")[2]
        for top, facts in tops.items():
            folder = facts["type"] == "directory" or address.endswith("/")
            files = _remote_below(filesystem, top, source, is_web(address)) if folder else [(top, facts)]
            if not folder:
                _check_no_split(source, top)
            for name, file in files:
                full = filesystem.unstrip_protocol(name) + (f"::{rest}" if rest else "")
                if file.get("type") == "other":  # of this machine, through an address
                    raise InputError(full, _NO_FILE, "save its text to a file, or exclude it")
                yield full, (file.get("size"), not is_web(full))


def _remote_below(filesystem: Any, top: str, source: Source, web: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files of a remote folder that the source takes, each with the server's facts about it."""

    def whole(name: str) -> str:
        return f"{top.rstrip('/')}/{name}" if top else name

    def content(name: str) -> bytes | None:
        return filesystem.cat_file(whole(name)) if filesystem.isfile(whole(name)) else None

    saved = _saved(source, top, (lambda name: None) if web else content)  # `datasets` writes to no web server
    if saved is not None:
        yield from ((whole(name), filesystem.info(whole(name))) for name in saved)
        return
    for name, file in filesystem.find(top, detail=True).items():
        if _taken(name[len(top) :].strip("/"), source):
            yield name, file
