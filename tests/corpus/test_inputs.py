"""Which inputs a source has, and how they are shared out."""

import itertools
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inheritune.corpus.sources.inputs import Input, gather, list_inputs
from inheritune.corpus.sources.storage import blocks
from inheritune.errors import InputError
from inheritune.recipe import Source


def names(inputs: list[Input]) -> list[str]:
    return [Path(one.address).name for one in inputs]


def source(path: Any, **more: Any) -> Source:
    return Source.model_validate({"path": str(path), **more})


def write(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"text of {file}\n")
    return folder


def test_a_folder_at_every_depth_sorted_by_address(tmp_path: Path) -> None:
    write(
        tmp_path, "b.txt", "a/z.md", "a/y.jsonl.gz", "c.html", "a/deep/er/x.parquet", "d.csv.zst", "e.rst", "f.ndjson"
    )
    found = list_inputs([source(tmp_path)])
    addresses = [one.address for one in found]
    assert addresses == sorted(addresses)
    assert sorted(names(found)) == ["b.txt", "d.csv.zst", "e.rst", "f.ndjson", "x.parquet", "y.jsonl.gz", "z.md"]
    assert all(one.size == Path(one.address).stat().st_size for one in found)
    assert {(one.source, one.start, one.end) for one in found} == {(0, 0, None)}


def test_include_and_exclude(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "test/b.py", "lib/test/c.py", "lib/d.py", "lib/e.txt")
    found = list_inputs([source(tmp_path, include=["*.py"], exclude=["test/*", "*/test/*"])])
    assert names(found) == ["a.py", "d.py"]


def test_files_and_patterns_need_no_include(tmp_path: Path) -> None:
    write(tmp_path, "a.html", "b/one.html", "c/two.html", "d/deep/three.html")
    assert names(list_inputs([source(tmp_path / "a.html")])) == ["a.html"]
    assert names(list_inputs([source(tmp_path / "*" / "*.html")])) == ["one.html", "two.html"]
    assert names(list_inputs([source(tmp_path / "**" / "*.html")])) == ["a.html", "one.html", "two.html", "three.html"]
    assert names(list_inputs([source(f"file://{tmp_path}/a.html")])) == ["a.html"]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    write(tmp_path, "data[1]/a.txt", "data1/b.txt", "line\nend.txt")
    assert names(list_inputs([source(tmp_path / "data[1]")])) == ["a.txt"]
    assert names(list_inputs([source(tmp_path / "line*")])) == ["line\nend.txt"]


def test_the_standard_library() -> None:
    found = list_inputs([source("{stdlib}/json", include=["*.py"])])
    assert "decoder.py" in names(found)
    assert all(os.sep + "json" + os.sep in one.address for one in found)


def test_each_file_once_however_many_links(tmp_path: Path) -> None:
    write(tmp_path, "real/a.txt", "real/b.txt")
    (tmp_path / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "again.txt").symlink_to(tmp_path / "real" / "b.txt")
    (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(list_inputs([source(tmp_path)])) == 2
    assert names(list_inputs([source(tmp_path / "linked")])) == ["a.txt", "again.txt"]
    both = list_inputs([source(tmp_path / "real", name="one"), source(tmp_path / "linked", name="two")])
    assert [one.source for one in both] == [0, 0, 1, 1]  # once in a source


def test_large_files_of_lines_are_split_by_their_size_alone(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.txt", "a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b"x" * 2500)
    for rule, split in (("auto", {"a.jsonl"}), ("line", {"a.jsonl", "a.txt", "a.csv"}), ("blank line", set[str]())):
        found = list_inputs([source(tmp_path, document=rule, exclude=["*.parquet"])], range_bytes=1000)
        for name in ("a.jsonl", "a.jsonl.gz", "a.txt", "a.csv"):
            ranges = [(one.start, one.end) for one in found if Path(one.address).name == name]
            assert ranges == ([(0, 1000), (1000, 2000), (2000, 2500)] if name in split else [(0, None)])
    assert [one.length for one in list_inputs([source(tmp_path / "a.jsonl")], range_bytes=1000)] == [1000, 1000, 500]


def test_addresses(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in (("a.txt", b"one"), ("in/b.jsonl", b"{}" * 600), ("in/c.html", b"no")):
        memory.pipe(f"/corpus/{name}", content)
    try:
        found = list_inputs([source("memory://corpus")], range_bytes=1000)
        assert [(one.address, one.size, one.start, one.end) for one in found] == [
            ("memory:///corpus/a.txt", 3, 0, None),
            ("memory:///corpus/in/b.jsonl", 1200, 0, 1000),
            ("memory:///corpus/in/b.jsonl", 1200, 1000, 1200),
        ]
        assert names(list_inputs([source("memory://corpus", exclude=["in/*"])])) == ["a.txt"]
        assert names(list_inputs([source("memory://corpus/in/c.html")])) == ["c.html"]
        assert names(list_inputs([source("memory://corpus/*/*.html")])) == ["c.html"]
    finally:
        memory.rm("/corpus", recursive=True)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("in.txt", "zipped")
    (one,) = list_inputs([source(f"zip://*.txt::{tmp_path}/a.zip")])
    assert one.address == f"zip://in.txt::{tmp_path}/a.zip"
    assert b"".join(blocks(one.address)) == b"zipped"


def test_all_sources_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list_inputs([source(tmp_path / "no"), source(tmp_path / "neither"), source(write(tmp_path, "a.txt"))])
    assert [problem.place for problem in caught.value.problems] == [
        f"data.sources: {tmp_path}/no",
        f"data.sources: {tmp_path}/neither",
    ]


@given(st.lists(st.one_of(st.none(), st.integers(0, 50))), st.integers(1, 60))
def test_tasks_hold_every_input_once_in_order_and_no_more_than_they_may(sizes: list[int | None], most: int) -> None:
    inputs = [Input(0, str(number), size) for number, size in enumerate(sizes)]
    tasks = gather(inputs, most)
    assert [one for task in tasks for one in task] == inputs
    for task in tasks:
        lengths = [one.length for one in task]
        assert len(task) == 1 or (None not in lengths and sum(length or 0 for length in lengths) <= most)
    for one, two in itertools.pairwise(tasks):  # neighbours are apart only where they must be
        lengths = [part.length for part in [*one, two[0]]]
        assert None in lengths or sum(length or 0 for length in lengths) > most
