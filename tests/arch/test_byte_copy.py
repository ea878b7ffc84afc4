"""Tensors that are copied as bytes: every tensor where its numbers are aligned, and no file that looks whole and is not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inheritune.arch.byte_copy import write_tensors
from inheritune.arch.stored import StoredTensor


def stored(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by its header as the format describes it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        found[name] = StoredTensor(name, file, tuple(entry["shape"]), entry["dtype"], 8 + length + start, stop - start)
    return found


def test_numbers_of_all_widths_are_aligned_and_equal(tmp_path: Path) -> None:
    tensors = {
        "bytes": torch.arange(5, dtype=torch.uint8), "half": torch.arange(3).half(), "single": torch.randn(7),
        "double": torch.randn(2).double(), "more bytes": torch.arange(3, dtype=torch.uint8),
    }  # fmt: skip
    save_file(tensors, tmp_path / "source.safetensors")
    write_tensors(tmp_path / "copy.safetensors", stored(tmp_path / "source.safetensors"))
    loaded = load_file(tmp_path / "copy.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    for name, copied in stored(tmp_path / "copy.safetensors").items():
        assert copied.start % tensors[name].element_size() == 0, name


def test_a_source_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    save_file({"a": torch.randn(100), "b": torch.randn(100)}, source)
    described = stored(source)
    source.write_bytes(source.read_bytes()[:-10])
    with pytest.raises(OSError, match="ended before its tensors"):
        write_tensors(tmp_path / "copy.safetensors", described)
