"""Lines of an input with their places."""

import codecs
import io
from collections.abc import Iterable, Iterator

from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.storage import Damaged, blocks
from inheritune.corpus.sources.transcoding import text_blocks
from inheritune.limits import LINE_BYTES

_SHORTER = "exclude the file, or write shorter lines; `document: 2K characters` cuts a file of plain text"


class Lines:
    """The lines of a settled input with their line ends, as UTF-8, without a byte order mark.

    A range has the lines that begin in it, so neighbouring ranges have every line once.
    """

    def __init__(self, of: Input) -> None:
        self.input = of
        self.number = 0  # of the current line, from 1, in the range
        self.offset = 0  # bytes before it, in UTF-8
        self._begin = 0
        self._before: int | None = None if of.start else 0

    def __iter__(self) -> Iterator[bytes]:
        start, end = self.input.start, self.input.end
        # Read from the byte before a range: if that ends a line, the range's first line begins at its start.
        self._begin = offset = max(start - 1, 0)
        lines = self._split(text_blocks(self.input, offset))
        if start:
            offset += len(next(lines, b""))
            self._begin = offset
        for line in lines:
            if end is not None and offset >= end:
                return
            self.number, self.offset = self.number + 1, offset
            yield line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            offset += len(line)

    def _split(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The lines of a stream of blocks. Raises Damaged for a line beyond the limit."""
        held: list[bytes] = []
        size = 0
        for block in stream:
            cut = block.rfind(b"\n") + 1
            if cut:
                yield from io.BytesIO(b"".join([*held, block[:cut]])).readlines()
                held, size = [], 0
            held.append(block[cut:])
            size += len(block) - cut
            if size > LINE_BYTES:
                self.number += 1
                what = f"{self.place().removeprefix(f'{self.input.address}: ')} has more than {LINE_BYTES:,} bytes"
                raise Damaged(what, _SHORTER)
        if size:
            yield b"".join(held)

    def place(self) -> str:
        """File and number of the current line, for errors: in a range this reads the file up to the range, once."""
        if self._before is None:
            self._before, left = 0, self._begin
            for block in blocks(self.input.address):
                self._before += block.count(b"\n", 0, left)
                left -= min(left, len(block))
                if not left:
                    break
        return f"{self.input.address}: line {self._before + self.number}"

    def here(self) -> str:
        """File and number of the current line; in a range, where the number is unknown, the line's first byte."""
        address = self.input.address
        return f"{address}: byte {self.offset}" if self.input.start else f"{address}: line {self.number}"
