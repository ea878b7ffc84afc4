"""Text files of any encoding as UTF-8, block by block, so that other code knows one encoding only.

A byte that is wrong in the file's encoding becomes three bytes that are wrong in UTF-8, so both are found in one place.
"""

import codecs
import itertools
from collections.abc import Iterator
from dataclasses import replace

from inheritune.corpus.sources.guessing import BYTE_ORDER_MARKS, byte_order, guess
from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.storage import Damaged, blocks

UTF8 = "utf-8"
# The first bytes of files that are no text, the kind of file, and the remedy.
_OTHER_KINDS = (
    (b"\x1f\x8b", "gzip data", "give the file a name that ends in .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "give the file a name that ends in .zst"),
    (b"BZh", "bzip2 data", "unpack it with `bunzip2`"),
    (b"\xfd7zXZ\0", "xz data", "unpack it with `unxz`"),
    (b"PK\3\4", "a zip archive", "unpack it"),
    (b"%PDF", "a PDF", "extract its text into a file"),
    (b"PAR1", "a .parquet file", "give it a name that ends in .parquet"),
    (b"ARROW1", "an Arrow file", "give it a name that ends in .arrow"),
)
_MARKED = "inheritune.marked"
_FIRST_MARK, _LAST_MARK = 0xDC00, 0xDCFF  # half surrogate pairs, which no encoding of text yields


class NotText(Damaged):
    """Bytes that are no text in the file's encoding, and their place in its UTF-8."""

    def __init__(self, what: str, remedy: str, start: int, end: int) -> None:
        super().__init__(what, remedy)
        self.start, self.end = start, end


def settled(one: Input) -> Input:
    """The input with its final encoding, with `auto` and the order of bytes decided.

    Reads the whole file once for `auto`, its beginning for other encodings than UTF-8. Raises Damaged where the
    beginning contradicts the declared encoding.
    """
    if one.encoding == "auto":
        return replace(one, encoding=guess(one.address), guessed=True)
    if one.encoding == UTF8:
        return one
    first = next(iter(blocks(one.address)), b"")
    mark = next((name for sign, name in BYTE_ORDER_MARKS if first.startswith(sign)), None)
    if mark is not None and not mark.startswith(one.encoding):
        raise Damaged(
            f"begins with the byte order mark of {mark.upper()}, and `encoding` is {one.encoding}",
            f"set the source's `encoding: {mark}`, or auto where its files differ",
        )
    if one.encoding not in ("utf-16", "utf-32"):
        return one
    order = byte_order(first, one.encoding)
    if order is None:
        raise Damaged(
            f"{one.encoding.upper()} without a byte order mark, and its content does not show the order of the bytes",
            f"set the source's `encoding: {one.encoding}-le` or `{one.encoding}-be`",
        )
    return replace(one, encoding=order)


def text_blocks(one: Input, start: int = 0) -> Iterator[bytes]:
    """The text of a settled input as UTF-8, from byte `start` of the file, in blocks; raises as `blocks` does.

    Only UTF-8 can begin inside a file.
    """
    stored = blocks(one.address, start)
    if one.encoding == UTF8:
        yield from stored
        return
    decoder = codecs.getincrementaldecoder(one.encoding)(_MARKED)
    for block in itertools.chain(stored, [b""]):  # the empty one ends the last character
        text = decoder.decode(block, not block)
        if text:
            yield text.encode(UTF8, "surrogatepass")


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return chr(_FIRST_MARK + error.object[error.start]), error.end


codecs.register_error(_MARKED, _marked)


def decode(raw: bytes, one: Input) -> str:
    """A piece of `text_blocks` as text. Raises NotText for binary files and bytes that are wrong in their encoding."""
    nul = raw.find(b"\0")
    if nul >= 0:
        raise nul_byte(raw, nul, one)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise broken(raw, error.start, error.end, one) from None


def nul_byte(raw: bytes, position: int, one: Input) -> NotText:
    """The fault of a file with a NUL byte: it is UTF-16, or no text."""
    # With `auto`, UTF-16 has been ruled out already.
    remedy = "exclude it" if one.guessed else "exclude it; if it is UTF-16 text, set the source's `encoding: auto`"
    what = "a binary file (it has NUL bytes)"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        what, remedy = "UTF-16 text", "set the source's `encoding: utf-16`, or exclude the file"
    else:
        what, remedy = _other_kind(one) or (what, remedy)
    return NotText(what, remedy, position, position + 1)


def _other_kind(one: Input) -> tuple[str, str] | None:
    """The kind of a file and the remedy, where its first bytes are those of a known kind that is no text."""
    first = next(iter(blocks(one.address)), b"")
    return next(((what, remedy) for mark, what, remedy in _OTHER_KINDS if first.startswith(mark)), None)


def broken(raw: bytes, start: int, end: int, one: Input) -> NotText:
    """The fault at a place of `text_blocks` that is no UTF-8: a byte of the file, or the mark of one."""
    other = _other_kind(one)
    if other is not None:
        return NotText(*other, start, end)
    byte, mark = raw[start], raw[start : start + 3]
    if one.encoding != UTF8 and len(mark) == 3:
        code = ord(mark.decode(UTF8, "surrogatepass"))
        byte, end = code - _FIRST_MARK if _FIRST_MARK <= code <= _LAST_MARK else byte, start + 3
    name = one.encoding.upper() if one.encoding.startswith("utf") else one.encoding
    if one.guessed:
        what = f"not {name} text (byte 0x{byte:02x}), as most of the file is"
        remedy = "correct the file, or name its encoding with the source's `encoding`"
    elif one.encoding == UTF8:
        what = f"not UTF-8 text (byte 0x{byte:02x})"
        remedy = "name the file's encoding with the source's `encoding` (auto finds it out), or exclude the file"
    else:
        what = f"not {name} text (byte 0x{byte:02x})"
        remedy = "correct the source's `encoding` (auto finds it out), or exclude the file"
    return NotText(what, remedy, start, end)
