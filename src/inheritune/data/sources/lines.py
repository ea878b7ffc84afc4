"""Lines of an input with their places, and bytes that must be UTF-8 text."""

import codecs
import io
from collections.abc import Iterable, Iterator

from inheritune.data.sources.inputs import Input
from inheritune.data.sources.storage import Damaged, blocks
from inheritune.data.sources.texts import LARGEST


class NotText(ValueError):
    """Bytes that are no UTF-8 text, and where in them that shows."""

    def __init__(self, what: str, position: int) -> None:
        self.what, self.remedy, self.position = what, "convert the file to UTF-8, or exclude it", position
        super().__init__(what)


def decode(raw: bytes) -> str:
    """The bytes as text. Raises NotText for binary files, broken UTF-8 and other encodings."""
    nul = raw.find(b"\0")
    if nul >= 0:
        utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise NotText("UTF-16 text" if utf16 else "a binary file (it has NUL bytes)", nul)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise NotText(f"not UTF-8 text (byte 0x{raw[error.start]:02x})", error.start) from None


class Lines:
    """The lines of an input with their line ends, one after the other; a byte order mark is no part of them.

    A range has the lines that begin in it, so ranges side by side have every line once.
    """

    def __init__(self, of: Input) -> None:
        self.input = of
        self.number = 0  # of the line at hand, from 1, in the range
        self.offset = 0  # bytes before it
        self._begin = 0
        self._before: int | None = None if of.start else 0

    def __iter__(self) -> Iterator[bytes]:
        start, end = self.input.start, self.input.end
        # From the byte before a range on: if that ends a line, the range's first line begins at its start.
        offset = max(start - 1, 0)
        lines = split_lines(blocks(self.input.address, offset))
        if start:
            offset += len(next(lines, b""))
        self._begin = offset
        for line in lines:
            if end is not None and offset >= end:
                return
            self.number, self.offset = self.number + 1, offset
            yield line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            offset += len(line)

    def place(self) -> str:
        """File and number of the line at hand. In a range the lines before it are counted once, so for errors only."""
        if self._before is None:
            self._before, left = 0, self._begin
            for block in blocks(self.input.address):
                self._before += block.count(b"\n", 0, left)
                left -= min(left, len(block))
                if not left:
                    break
        return f"{self.input.address}: line {self._before + self.number}"

    def here(self) -> str:
        """The place in short: the line's number, or in a range, where nobody knows it, the byte it begins at."""
        address = self.input.address
        return f"{address}: byte {self.offset}" if self.input.start else f"{address}: line {self.number}"


def split_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream of blocks, line ends kept. Raises Damaged for one that would not fit into memory."""
    held: list[bytes] = []
    size = 0
    for block in stream:
        cut = block.rfind(b"\n") + 1
        if cut:
            yield from io.BytesIO(b"".join([*held, block[:cut]])).readlines()
            held, size = [], 0
        held.append(block[cut:])
        size += len(block) - cut
        if size > LARGEST:
            raise Damaged(
                f"a line of more than {LARGEST:,} bytes", "exclude the file, or read it with `document: 2K characters`"
            )
    if size:
        yield b"".join(held)
