"""The faster reader of .gguf files reads what the library's reads, array by array."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from inheritune.arch.gguf_reader import FastReader, fast_reading

ARRAYS: dict[str, list[Any]] = {
    "tokenizer.ggml.tokens": ["<s>", "", "ä€", "a" * 300, "\x00"],
    "tokenizer.ggml.scores": [0.5, -1.25, 3.0],
    "tokenizer.ggml.token_type": [1, 2, 3, 4],
    "a.bools": [True, False],
    "a.negative": [-1, -(2**30)],
    "a.nested": [[1, 2], [3]],
    "a.texts": [["x", "yz"], ["w"]],
}


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_it_reads_the_same(tmp_path: Path, endian: Any) -> None:
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(str(file), "llama", endianess=endian)
    writer.add_uint32("llama.block_count", 1)
    for name, values in ARRAYS.items():
        writer.add_array(name, values)
    writer.add_string("last", "text")
    writer.add_tensor("token_embd.weight", np.arange(8, dtype=np.float32).reshape(2, 4))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    fast, plain = FastReader(file), GGUFReader(file)
    assert [*fast.fields] == [*plain.fields]
    for name, field in plain.fields.items():
        ours = fast.fields[name]
        assert (ours.types, ours.data, ours.offset) == (field.types, field.data, field.offset), name
        assert [part.dtype for part in ours.parts] == [part.dtype for part in field.parts], name
        assert [part.tobytes() for part in ours.parts] == [part.tobytes() for part in field.parts], name
        assert ours.contents() == field.contents(), name
    assert fast.data_offset == plain.data_offset
    assert np.array_equal(fast.tensors[0].data, plain.tensors[0].data)


def test_the_library_has_its_own_reader_afterwards() -> None:
    with fast_reading():
        assert gguf.GGUFReader is FastReader
    assert gguf.GGUFReader is GGUFReader
