"""The library's reader of .gguf files with faster arrays: a tokenizer has hundreds of thousands of entries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType
from typing_extensions import override


class FastReader(GGUFReader):  # type: ignore[misc]
    """Reads what `GGUFReader` reads. Arrays of texts and numbers are taken from the file's bytes at once.

    The library slices a memory map for each entry, which takes 10 to 25 seconds for a vocabulary.
    """

    @override
    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        inner, count = GGUFValueType(self._get(orig_offs, np.uint32)[0]), int(self._get(orig_offs + 4, np.uint64)[0])
        head, start = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)], orig_offs + 12
        types = [GGUFValueType.ARRAY] + [inner] * bool(count)
        scalar = self.gguf_scalar_to_np.get(inner)
        if scalar is not None:
            values = self._get(start, scalar, count)
            return 12 + values.nbytes, [*head, *np.asarray(values).reshape(-1, 1)], list(range(2, count + 2)), types
        if inner != GGUFValueType.STRING:
            return super()._get_field_parts(orig_offs, raw_type)
        plain, parts, at = np.asarray(self.data), [*head], start
        number = np.dtype(np.uint64).newbyteorder(self.byte_order)
        for _ in range(count):
            size = plain[at : at + 8].view(number)
            at += 8 + int(size[0])
            parts += size, plain[at - int(size[0]) : at]
        return at - orig_offs, parts, list(range(3, 2 * count + 3, 2)), types


@contextmanager
def fast_reading() -> Iterator[None]:
    """Inside, whoever reads a .gguf file with the library gets the faster reader: transformers does."""
    before = gguf.GGUFReader
    gguf.GGUFReader = FastReader
    try:
        yield
    finally:
        gguf.GGUFReader = before
