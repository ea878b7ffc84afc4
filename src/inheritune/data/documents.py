"""Finding the documents of a source: where each begins and ends, and a hash of its text. Text is read when needed."""

import ast
import fnmatch
import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from inheritune.errors import InputError
from inheritune.recipe import Source

_SHORTEST_LITERAL = 200  # characters: shorter string literals are identifiers and messages, not text


@dataclass(frozen=True, slots=True)
class Document:
    """A place in a file, in bytes (for string literals: the number of the literal), and what stands there."""

    digest: bytes
    source: int
    file: int
    start: int
    end: int


class Corpus:
    """All documents of some sources, empty ones left out, in the order of their files."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Find and hash every document. Raises InputError naming the source or file that cannot be read or is empty."""
        self.sources = list(sources)
        self.files: list[Path] = []
        self.documents: list[Document] = []
        for number, source in enumerate(self.sources):
            before = len(self.documents)
            for file in list_files(source):
                self.files.append(file)
                self.documents.extend(_scan(file, source, number, len(self.files) - 1))
            if len(self.documents) == before:
                raise InputError(source.title, "no text: every file is empty", "give files with text in data.sources")

    def text(self, document: Document) -> str:
        """The document's text."""
        source, file = self.sources[document.source], self.files[document.file]
        rule = _rule(source, file)
        if rule == "string literal":
            return _literals(file)[document.start]
        with file.open("rb") as opened:
            opened.seek(document.start)
            raw = opened.read(document.end - document.start)
        return _decode(raw, source, file, rule, document.start)


def list_files(source: Source) -> list[Path]:
    """The files of a source, sorted by path, each once however many links lead to it.

    Raises InputError when there is none.
    """
    pattern = (source.path or "").replace("{stdlib}", sysconfig.get_path("stdlib"))
    found: list[Path] = []
    matches = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207 (absolute patterns too)
    for root in [Path(name) for name in matches] or [Path(pattern)]:
        if root.is_dir():
            found.extend(_walk(root, source))
        elif root.is_file():
            found.append(root)
        else:
            raise InputError(f"data.sources: {source.title}", f"no such file or folder: {root}", "correct the path")
    if not found:
        raise InputError(
            f"data.sources: {source.title}",
            f"no file there matches include {source.include}",
            "set `include` to the names that hold the text, for example ['*.txt']",
        )
    return list({os.path.realpath(file): file for file in reversed(found)}.values())[::-1]


def _walk(root: Path, source: Source) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            below = file.relative_to(root).as_posix()
            if _matches(below, source.include) and not _matches(below, source.exclude):
                yield file


def _matches(below: str, patterns: list[str]) -> bool:
    """A pattern without a slash is matched against the file's name, one with a slash against the path below."""
    name = below.rpartition("/")[2]
    return any(fnmatch.fnmatch(below if "/" in pattern else name, pattern) for pattern in patterns)


def _unreadable(error: OSError) -> None:
    raise InputError(str(error.filename), f"cannot be read ({error.strerror})", "change its permissions, or exclude it")


def _rule(source: Source, file: Path) -> str:
    if source.document != "auto":
        return str(source.document)
    return "record" if file.suffix == ".jsonl" else "file"


def _scan(file: Path, source: Source, source_number: int, file_number: int) -> Iterator[Document]:
    rule = _rule(source, file)
    if rule == "string literal":
        for place, text in enumerate(_literals(file)):
            yield Document(_digest(text), source_number, file_number, place, place + 1)
        return
    for start, raw in _pieces(file, rule):
        text = _decode(raw, source, file, rule, start)
        if text.strip():
            yield Document(_digest(text), source_number, file_number, start, start + len(raw))


def _pieces(file: Path, rule: str) -> Iterator[tuple[int, bytes]]:
    """Start and bytes of each document; a file of many documents is never held whole."""
    try:
        with file.open("rb") as opened:
            if rule == "file":
                yield 0, opened.read()
                return
            start, block = 0, b""
            for line in opened:
                if rule != "blank line":
                    yield start, line
                    start += len(line)
                elif line.strip():
                    block += line
                else:
                    yield start, block
                    start, block = start + len(block) + len(line), b""
            if block:
                yield start, block
    except OSError as error:
        raise InputError(
            str(file), f"cannot be read ({error.strerror})", "change its permissions, or exclude it"
        ) from None


def _decode(raw: bytes, source: Source, file: Path, rule: str, start: int) -> str:
    try:
        text = raw.decode("utf-8-sig" if start == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {start + error.start}",
            "not UTF-8 text",
            "convert the file, or name it in the source's `exclude`",
        ) from None
    if rule != "record":
        return text
    if not text.strip():
        return ""
    place = f"{file}: byte {start}"
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(place, f"not a JSON record ({error})", "mend the line, or leave the file out") from None
    if not isinstance(record, dict) or not isinstance(record.get(source.text_key), str):
        raise InputError(place, f"no text under {source.text_key!r}", "name the key with the source's `text_key`")
    found: str = record[source.text_key]
    return found


@lru_cache(maxsize=8)
def _literals(file: Path) -> tuple[str, ...]:
    """The long string literals of a Python file, in the order of their places."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(
            str(file), f"not Python ({error})", "leave the file out, or choose another `document` rule"
        ) from None
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    return tuple(str(node.value) for node in nodes if len(str(node.value)) >= _SHORTEST_LITERAL)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
