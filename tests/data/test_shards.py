"""A row over several files equals the files put together; what is wrong with a file is said with its name."""

import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import Shard, Tokens
from inheritune.errors import InputError, RunError
from inheritune.runlog import checksum


def write(folder: Path, *lengths: int, dtype: str = "uint16") -> tuple[Tokens, np.ndarray]:
    """Shards of these lengths with different tokens, and all their tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, sum(lengths)).astype(dtype)
    shards, start = [], 0
    for number, length in enumerate(lengths):
        file = folder / f"train-{number:05d}.bin"
        file.write_bytes(whole[start : start + length].astype(whole.dtype.newbyteorder("<")).tobytes())
        shards.append(Shard(file, length, checksum(file)))
        start += length
    return Tokens(shards, dtype), whole


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, np.ndarray]:
    return write(tmp_path_factory.mktemp("row"), 7, 1, 0, 50, 3)


@given(st.integers(0, 61), st.integers(0, 61))
@settings(max_examples=100, deadline=None)
def test_reading_is_slicing_over_all_files(row: tuple[Tokens, np.ndarray], start: int, count: int) -> None:
    tokens, whole = row
    count = min(count, 61 - start)
    found = tokens.read(start, count)
    assert found.dtype == np.uint16
    assert found.tolist() == whole[start : start + count].tolist()
    assert tokens.read(start).tolist() == whole[start:].tolist()


@given(st.lists(st.integers(0, 48), max_size=20), st.integers(1, 13))
@settings(max_examples=100, deadline=None)
def test_rows_are_slices(row: tuple[Tokens, np.ndarray], starts: list[int], count: int) -> None:
    tokens, whole = row
    found = tokens.rows(np.array(starts, np.int64), count)
    assert found.shape == (len(starts), count)
    assert found.tolist() == [whole[start : start + count].tolist() for start in starts]


def test_four_bytes_a_token(tmp_path: Path) -> None:
    tokens, whole = write(tmp_path, 5, 9, dtype="uint32")
    assert whole.max() > 2**16
    assert tokens.read().tolist() == whole.tolist()


def test_beyond_the_end_is_no_data(row: tuple[Tokens, np.ndarray]) -> None:
    for start, count in ((61, 1), (0, 62), (-1, 2)):
        with pytest.raises(IndexError, match="there are 61"):
            row[0].read(start, count)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("short", r"has 98 bytes, the manifest has 100"), ("missing", "missing"), ("folder", "cannot be read")],
)
def test_opening_names_the_file(tmp_path: Path, fault: str, words: str) -> None:
    tokens, _ = write(tmp_path, 10, 50)
    file = tokens.shards[1].file
    if fault == "short":
        os.truncate(file, 98)
    else:
        file.unlink()
        if fault == "folder":
            file.mkdir()
    with pytest.raises(InputError, match=rf"train-00001\.bin: {words}"):
        Tokens(tokens.shards, "uint16")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    tokens, _ = write(tmp_path, 10)
    tokens.shards[0].file.chmod(0)
    with pytest.raises(InputError, match=r"train-00000\.bin: cannot be read \(Permission denied\)"):
        Tokens(tokens.shards, "uint16")


def test_verifying_names_the_changed_file(tmp_path: Path) -> None:
    tokens, _ = write(tmp_path, 10, 50, 4)
    tokens.verify()
    content = bytearray(tokens.shards[1].file.read_bytes())
    content[-1] ^= 1
    tokens.shards[1].file.write_bytes(content)
    same_size = Tokens(tokens.shards, "uint16")
    with pytest.raises(
        InputError, match=r"train-00001\.bin: changed since it was written \(checksum\); prepare the data"
    ):
        same_size.verify()


def test_a_file_that_vanishes_or_shrinks_later_is_a_run_error(tmp_path: Path) -> None:
    tokens, whole = write(tmp_path, 10, 50, 4)
    assert tokens.read(0, 10).tolist() == whole[:10].tolist()
    tokens.shards[0].file.unlink()  # it is open, and stays readable
    assert tokens.read(0, 10).tolist() == whole[:10].tolist()
    tokens.shards[2].file.unlink()
    with pytest.raises(
        RunError, match=r"train-00002\.bin: cannot be read \(No such file or directory\); bring the file"
    ):
        tokens.read(58)
    os.truncate(tokens.shards[1].file, 40)
    assert tokens.read(10, 20).tolist() == whole[10:30].tolist()
    with pytest.raises(RunError, match=r"train-00001\.bin: has 40 bytes, it had more when it was opened"):
        tokens.read(10, 30)


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    """With 300 files and 280 descriptors, every file can be read, in turn and again, and all are closed in the end."""
    tokens, whole = write(tmp_path, *[3] * 300)
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 280, hard))
    try:
        for _ in range(2):
            assert tokens.read().tolist() == whole.tolist()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    del tokens
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= held  # noqa: PTH208
