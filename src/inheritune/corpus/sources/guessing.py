"""The encoding of a file, decided by its bytes alone, so it is the same everywhere."""

import codecs
import contextlib
import itertools
import re
from collections.abc import Iterator

from inheritune.corpus.sources.storage import BLOCK, Damaged, blocks, kind
from inheritune.recipe.encodings import AUTO, parse_encoding

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 8192  # bytes that are shown to chardet, which takes about 0.1 s for them
_SCARCE = 16  # bytes beyond ASCII: fewer do not show the language
# Characters that nearly every text has, and that become rare or unassigned ones when their bytes are swapped.
_COMMON = "\n\r\t etaoin\u3000\u3001\u3002"
_FEW = 100  # of so many characters one may be wrong, and one must be common
_CONTROL = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f]")
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE | re.ASCII)
_HIGH = re.compile(rb"[\x80-\xff]")
_ASIAN = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
_PRIVATE = re.compile("[\ue000-\uf8ff]")  # in no text, but in other encodings' bytes when they are read as gb18030
_ESCAPED = re.compile("[\udc80-\udcff]")
# Larger encodings of Windows and newer standards, which often go by the name of the smaller one.
_LARGER = {"shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}


def guess(address: str) -> str:
    """The encoding of a file, by the first that applies: a byte order mark, the look of UTF-16, UTF-8, the declaration
    in Python source code (PEP 263), a guess from the bytes beyond ASCII.

    Reads the whole file in bounded memory, twice where the guess is Chinese, Japanese or Korean. A file that is UTF-8
    except for some broken places is UTF-8. A guessed encoding can decode the whole file.
    """
    seen = _Seen(kind(address) == ".py")
    for block in _large(address):
        seen.add(block)
        if seen.decided is not None:
            return seen.decided
    seen.end()
    if seen.broken <= seen.characters:
        return "utf-8"
    return next(name for name in _candidates(seen) if _can_be(name, seen, address))


def byte_order(first: bytes, encoding: str) -> str | None:
    """`utf-16-le` or `utf-16-be` (or of `utf-32`) by a file's first bytes; None where they show no order."""
    for mark, name in BYTE_ORDER_MARKS:
        if first.startswith(mark) and name.startswith(encoding):
            return name
    little, big = (_common(first, f"{encoding}-{order}") for order in ("le", "be"))
    if max(little, big) <= 10 * min(little, big):
        return None
    return f"{encoding}-le" if little > big else f"{encoding}-be"


def _common(first: bytes, encoding: str) -> int:
    """The number of common characters in this encoding; 0 where there are too few, or it is not possible."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(first)  # the last character may be cut
    wrong, common = text.count("\ufffd") + len(_CONTROL.findall(text)), sum(map(text.count, _COMMON))
    return common if wrong <= max(1, len(text) // _FEW) and common >= len(text) // _FEW else 0


class _Seen:
    """What the blocks of a file so far show."""

    def __init__(self, is_python: bool) -> None:
        self.decided: str | None = None
        self.characters = 0  # beyond ASCII, as UTF-8
        self.broken = 0  # bytes that are no UTF-8
        self.sample = b""  # lines with bytes beyond ASCII
        self.bytes = b""  # each byte beyond ASCII once
        self.cookie: str | None = None
        self._is_python, self._first = is_python, True
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def add(self, block: bytes) -> None:
        """Examine the next block: a megabyte, or the rest."""
        if self._first:
            self._begin(block)
        self._count(self._decoder.decode(block))
        self.bytes += bytes(set(block.translate(None, self.bytes + bytes(range(128)))))
        if len(self.sample) < _SAMPLE:
            self._collect(block)
        self._first = False

    def end(self) -> None:
        """There are no more blocks."""
        self._count(self._decoder.decode(b"", True))

    def _count(self, text: str) -> None:
        if text.isascii():
            return
        try:
            text.encode()
            broken = 0
        except UnicodeEncodeError:
            broken = len(_ESCAPED.findall(text))
        self.broken += broken
        self.characters += len(text) - len(text.encode("ascii", "ignore")) - broken

    def _begin(self, block: bytes) -> None:
        self.decided = next((name for mark, name in BYTE_ORDER_MARKS if block.startswith(mark)), None)
        if self.decided is None and b"\0" in block:
            # What is neither UTF-16 nor UTF-32 is refused later, as a binary file.
            self.decided = byte_order(block, "utf-16") or byte_order(block, "utf-32") or "utf-8"
        if self._is_python:
            declared = _COOKIE.search(b"\n".join(block.split(b"\n", 2)[:2]))
            with contextlib.suppress(ValueError):
                name = parse_encoding(declared[1].decode()) if declared else AUTO
                self.cookie = None if name == AUTO else name

    def _collect(self, block: bytes) -> None:
        """Add whole lines to the sample, as a character of several bytes must not be cut, except at its end."""
        at = 0 if self._first else block.find(b"\n") + 1
        while len(self.sample) < _SAMPLE and (high := _HIGH.search(block, at)):
            begin = block.rfind(b"\n", at, high.start()) + 1 or at
            at = block.find(b"\n", high.start()) + 1
            if not at:
                at = len(block)
                if at >= BLOCK and self.sample:
                    return  # the line continues in the next block
            self.sample += block[begin:at][: _SAMPLE - len(self.sample)]


def _is_multibyte(encoding: str) -> bool:
    try:
        return len(bytes(range(256)).decode(encoding, "replace")) != 256
    except (LookupError, UnicodeError):
        return True


def _can_be(encoding: str, seen: _Seen, address: str) -> bool:
    """Whether the whole file is text in an encoding; one with several bytes a character is tried on the file."""
    if not _is_multibyte(encoding):
        return len(seen.bytes.decode(encoding, "ignore")) == len(seen.bytes)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in itertools.chain(_large(address), [b""]):  # the empty one ends the last character
            decoder.decode(block, not block)
    except UnicodeDecodeError:
        return False
    return True


def _candidates(seen: _Seen) -> Iterator[str]:
    """Encodings, the likeliest first; the last one can decode everything."""
    if seen.cookie is not None:
        yield seen.cookie
    high = _HIGH.findall(seen.sample)
    if len(high) >= _SCARCE or re.search(rb"[\x80-\xff]{2}", seen.sample):
        yield from _by_language(seen)
    yield from ("cp1252", "latin-1")


def _by_language(seen: _Seen) -> Iterator[str]:
    import chardet

    for era in (chardet.EncodingEra.MODERN_WEB, chardet.EncodingEra.ALL):
        encoding = chardet.detect(seen.sample, encoding_era=era)["encoding"]
        try:
            name = codecs.lookup(encoding or "").name
        except LookupError:
            continue
        if name == "ascii" or name.startswith("utf"):
            continue
        if not _is_multibyte(name) and seen.bytes.decode(name, "ignore") == seen.bytes.decode("cp1252", "ignore"):
            name = "cp1252"  # the same text, by its usual name
        if name == "cp1250" and not re.search(rb"[\x80-\x9f]", seen.bytes):
            yield "iso8859-2"  # Polish and Czech have letters there in cp1250; other texts are the same in both
        if _is_multibyte(name):
            several = [name, _LARGER.get(name, name), *_ASIAN]
            yield from (other for other in several if not _PRIVATE.search(seen.sample.decode(other, "ignore")))
        yield name


def _large(address: str) -> Iterator[bytes]:
    """The file's bytes in blocks of at least a megabyte, except for the last; ends where a damaged file does."""
    held: list[bytes] = []
    size = 0
    with contextlib.suppress(Damaged):  # reading the text reports it
        for block in blocks(address):
            held.append(block)
            size += len(block)
            if size >= BLOCK:
                yield b"".join(held)
                held, size = [], 0
    if size:
        yield b"".join(held)
