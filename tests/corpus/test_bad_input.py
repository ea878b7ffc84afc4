"""Bad input: each is refused in one line that names the place and the remedy, with exit status 2."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.errors import InputError
from inheritune.recipe import Data, check


def never(place: str, reason: str) -> None:
    raise AssertionError(f"{place}: {reason}")


def read_all(*sources: dict[str, Any], **more: Any) -> list[str]:
    """What the recipe's check, the listing of inputs and their reading make of some sources."""
    data = check(Data, {"sources": list(sources), **more}, "data")
    return [
        text.text for one in list_inputs(data.sources) for text in read(one, data.sources[one.source], never, seed=1)
    ]


def zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    out = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), out)
    return bytes(out.getvalue().to_pybytes())


LINES = b"".join(json.dumps({"text": f"{n} {n * n} {n**3}"}).encode() + b"\n" for n in range(5000))


LARGE = b"x" * 32_500_000


@dataclass
class File:
    """A file with some content; `words` must be in the line, besides the file's name."""

    name: str
    content: bytes | Callable[[], bytes]
    words: list[str]
    source: dict[str, Any] = field(default_factory=dict)


FILES = {
    "empty file": File("a.txt", b"", ["every file is empty", "give files with text"]),
    "empty parquet": File("a.parquet", b"", ["every file is empty"]),
    "binary file": File("a.txt", bytes(range(256)), ["line 1", "binary file", "exclude it"]),
    "binary lines": File("a.txt", b"text\n\0\n", ["line 2", "binary file"], {"document": "line"}),
    "binary in pieces": File("a.txt", b"text\n\0\n", ["binary file"], {"document": "2K characters"}),
    "broken UTF-8": File("a.txt", b"one\ncaf\xe9\n", ["line 2", "not UTF-8 text (byte 0xe9)", "`encoding` (auto finds it out)"]),
    "broken UTF-8, lines": File("a.txt", b"one\ncaf\xe9\n", ["line 2", "not UTF-8"], {"document": "line"}),
    "broken UTF-8, blocks": File("a.txt", b"o\n\np\n\xe9\n", ["line 4", "not UTF-8"], {"document": "blank line"}),
    "broken UTF-8, pieces": File("a.txt", b"one\ncaf\xe9\n", ["line 2", "not UTF-8"], {"document": "9 characters"}),
    "UTF-8 cut short": File("a.txt", "one\nä".encode()[:-1], ["line 2", "not UTF-8"], {"document": "9 characters"}),
    "UTF-16": File("a.txt", "one\n".encode("utf-16"), ["UTF-16 text", "`encoding: utf-16`"]),
    "Latin-1 in JSON": File("a.jsonl", b'{"text": "caf\xe9"}\n', ["line 1", "not UTF-8"]),
    "broken JSON": File("a.jsonl", b'{"text": "a"}\n\n{"text": \n', ["line 3", "not a JSON record", "on_error: skip"]),
    "JSON cut short": File("a.jsonl", b'{"text": "a"}\n{"te', ["line 2", "not a JSON record"]),
    "deep JSON": File("a.jsonl", b"[" * 200_000, ["line 1", "not a JSON record"]),
    "half a character": File("a.jsonl", b'{"text": "\\ud800"}', ["line 1", "not a JSON record"]),
    "a JSON file of one array": File("a.json", b'[\n{"text": "a"}\n]', ["line 1"], {"document": "record"}),
    "JSON list": File("a.jsonl", b'["text"]\n', ["line 1", "a JSON list, not an object"]),
    "JSON text": File("a.jsonl", b'"text"\n', ["line 1", "a JSON text, not an object"]),
    "no text key": File("a.jsonl", b'{"body": "a"}\n', ["line 1", "no text under 'text'", "'body'", "text_key"]),
    "no key at all": File("a.jsonl", b"{}\n", ["line 1", "the keys are: none", "text_key"]),
    "text null": File("a.jsonl", b'{"text": null}\n', ["line 1", "but null", "text_key"]),
    "text a number": File("a.jsonl", b'{"text": 7}\n', ["line 1", "but number"]),
    "text a list": File("a.jsonl", b'{"text": ["a"]}\n', ["line 1", "but list"]),
    "parquet without the column": File(
        "a.parquet", lambda: parquet({"id": [1], "body": ["a"]}), ["no column 'text'", "'id', 'body'", "text_key"]
    ),
    "parquet column of numbers": File("a.parquet", lambda: parquet({"text": [1]}), ["holds int64, not text"]),
    "parquet column of lists": File("a.parquet", lambda: parquet({"text": [["a"]]}), ["holds list", "not text"]),
    "parquet null": File("a.parquet", lambda: parquet({"text": ["a", None]}), ["row 2", "but null"]),
    "parquet cut short": File("a.parquet", lambda: parquet({"text": ["a"] * 9})[:-5], ["not a whole .parquet file"]),
    "parquet that is none": File("a.parquet", b"PAR1 is what it says", ["not a whole .parquet file", "exclude it"]),
    "parquet by lines": File(
        "a.parquet", lambda: parquet({"text": ["a"]}), ["has rows", "remove `document`"], {"document": "line"}
    ),
    "gz cut short": File("a.jsonl.gz", gzip.compress(LINES)[:-9], ["gzip", "cut short", "fetch the file again"]),
    "gz cut in its header": File("a.jsonl.gz", gzip.compress(LINES)[:5], ["gzip", "cut short"]),
    "gz damaged": File("a.jsonl.gz", gzip.compress(LINES)[:-8] + b"12345678", ["gzip", "damaged"]),
    "gz that is none": File("a.jsonl.gz", LINES, ["not gzip", "fetch the file again"]),
    "gz of zeros": File("a.jsonl.gz", bytes(17_000_000), ["more than 16,000,000 zeros", "fetch the file again"]),
    "zst cut short": File("a.jsonl.zst", lambda: zstd(LINES)[:-9], ["zstd", "cut short", "fetch the file again"]),
    "zst that is none": File("a.jsonl.zst", LINES, ["not zstd"]),
    "csv without header": File("a.csv", b"1,some text\n2,more\n", ["no column 'text'", "'1', 'some text'", "text_key"]),
    "csv of white space": File("a.csv", b"\n \n", ["no column 'text'"]),
    "csv with NUL": File("a.csv", b"text\na\n\0\n", ["line 3", "binary file"]),
    "csv broken UTF-8": File("a.csv", b"text\na\n\xe9\n", ["line 3", "not UTF-8"]),
    "csv quotes never closed": File("a.csv", b'text,id\n"a,1\nb,2\n', ["line 2", "not a row", "correct the quotes"]),
    "csv with loose quotes": File("a.csv", b'text,id\n"a"b,1\n', ["line 2", "not a row"]),
    "csv row too short": File("a.csv", b"id,text\n1\n", ["line 2", "1 fields", "2 columns"]),
    "csv row too long": File("a.csv", b"id,text\n1,a, b\n", ["line 2", "3 fields", "2 columns"]),
    "a file too large for a document": File("a.txt.zst", lambda: zstd(LARGE), ["32,000,000 bytes", "`document`"]),
    "a line too long": File("a.txt.zst", lambda: zstd(b"a\n" + LARGE), ["line 2 has more than 32,000,000 bytes"], {"document": "line"}),
    "a record too long": File("a.jsonl.zst", lambda: zstd(LARGE), ["line 1 has more than 32,000,000 bytes", "exclude the file"]),
    "a block too large": File(
        "a.txt.zst", lambda: zstd(b"\n" + LARGE.replace(b"x" * 1000, b"x" * 999 + b"\n")), ["line 2 begins a block"], {"document": "blank line"}
    ),
    "a field too long": File("a.csv", lambda: b"id,text\n1,a\n2," + LARGE[:16_500_000] + b"\n", ["line 3 begins a record", "16,000,000 characters"]),
    "a field of many lines without an end": File("a.csv", lambda: b'id,text\n1,"' + b"a,b\n" * 5_000_000, ["line 2 begins a record", "16,000,000 characters"]),
    "a text too long": File("a.jsonl", lambda: b'{"text": "a"}\n{"text": "' + LARGE[:16_500_000] + b'"}\n', ["a.jsonl: line 2", "16,500,000 characters, at most 16,000,000"]),
    "a row too long": File("a.parquet", lambda: parquet({"text": ["a", "x" * 16_500_000]}), ["a.parquet: row 2", "16,500,000 characters"]),
    "no Python": File("a.py", b"def", ["not Python"], {"document": "string literal"}),
    "no file that is included": File("a.html", b"text", ["matches include ['*.txt']", "set `include`"], {"include": ["*.txt"]}),
}  # fmt: skip


def refusal(*sources: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_all(*sources, **more)
    assert caught.value.exit_status == 2
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line  # what is wrong, and behind it the remedy
    return line


@pytest.mark.long
@pytest.mark.parametrize("case", FILES.values(), ids=FILES)
def test_bad_files(tmp_path: Path, case: File) -> None:
    file = tmp_path / "folder" / case.name
    file.parent.mkdir()
    file.write_bytes(case.content() if callable(case.content) else case.content)
    named = file.parent if "include" in case.source or "no file" in case.words[0] else file
    line = refusal({"path": str(named), **case.source})
    for words in [str(named), *case.words]:
        assert words in line


RECIPES: dict[str, tuple[list[Any], dict[str, Any], list[str]]] = {
    "neither path nor dataset": ([{"name": "a"}], {}, ["sources.0", "either path", "dataset"]),
    "path and dataset": ([{"path": "a", "dataset": "b"}], {}, ["sources.0", "either path"]),
    "empty path": ([{"path": ""}], {}, ["sources.0.path"]),
    "empty dataset": ([{"dataset": ""}], {}, ["sources.0.dataset"]),
    "config of files": ([{"path": "a", "config": "en"}], {}, ["config goes with dataset, not with path"]),
    "include of a data set": ([{"dataset": "a", "include": ["b"]}], {}, ["include goes with path, not with dataset"]),
    "rule of a data set": ([{"dataset": "a", "document": "line"}], {}, ["document goes with path"]),
    "no buffer": ([{"dataset": "a", "buffer": 0}], {}, ["sources.0.buffer", "got 0"]),
    "weight zero": ([{"path": "a", "weight": 0}], {"size": "9 tokens"}, ["sources.0.weight", "got 0", "greater than 0"]),
    "weight below zero": ([{"path": "a", "weight": -1}], {"size": "9 tokens"}, ["sources.0.weight", "got -1"]),
    "weight NaN": ([{"path": "a", "weight": float("nan")}], {"size": "9 tokens"}, ["sources.0.weight", "finite"]),
    "weight infinite": ([{"path": "a", "weight": float("inf")}], {"size": "9 tokens"}, ["sources.0.weight", "finite"]),
    "weight of words": ([{"path": "a", "weight": "much"}], {"size": "9 tokens"}, ["sources.0.weight", "got 'much'"]),
    "weights for some": ([{"path": "a", "weight": 1}, {"path": "b"}], {"size": "9 tokens"}, ["every source a weight"]),
    "weights without size": ([{"path": "a", "weight": 1}], {}, ["give data.size"]),
    "two of one name": ([{"path": "a", "name": "c"}, {"path": "b", "name": "c"}], {}, ["same name", "its own `name`"]),
    "two of one path": ([{"path": "a"}, {"path": "a"}], {}, ["same name, path or data set"]),
    "two of one data set": ([{"dataset": "a"}, {"dataset": "a"}], {}, ["same name, path or data set"]),
    "a name of two lines": ([{"path": "a", "name": "b\nc"}], {}, ["sources.0.name", "one line"]),
    "an empty name": ([{"path": "a", "name": " "}], {}, ["sources.0.name", "one line"]),
    "pieces of nothing": ([{"path": "a", "document": "0 characters"}], {}, ["sources.0.document", "above 0"]),
    "pieces of tokens": ([{"path": "a", "document": "2K tokens"}], {}, ["sources.0.document", "2K characters"]),
    "no such rule": ([{"path": "a", "document": "page"}], {}, ["sources.0.document", "blank line", "record"]),
    "limit without unit": ([{"path": "a", "limit": 5}], {}, ["sources.0.limit", "needs its unit"]),
    "limit of nothing": ([{"path": "a", "limit": "0 tokens"}], {}, ["sources.0.limit", "above 0"]),
    "on_error misspelt": ([{"path": "a", "on_error": "ignore"}], {}, ["sources.0.on_error", "'stop' or 'skip'"]),
    "unknown key": ([{"path": "a", "incldue": ["b"]}], {}, ["incldue", "did you mean 'include'"]),
    "no such file": ([{"path": "no/such/file"}], {}, ["no/such/file", "no such file or folder", "correct the path"]),
    "a pattern without match": ([{"path": "no/such/*.txt"}], {}, ["no/such/*.txt", "no file matches the pattern"]),
    "unknown scheme": ([{"path": "xyz://a/b"}], {}, ["xyz://a/b", "no such kind of address", "s3://"]),
    "no such address": ([{"path": "memory://no/such"}], {}, ["memory://no/such", "no such file", "correct the path"]),
    "no match there": ([{"path": "memory://no/*.txt"}], {}, ["memory://no/*.txt", "no file matches the pattern"]),
    "server unreachable": ([{"path": "http://127.0.0.1:9/a.txt"}], {}, ["127.0.0.1:9/a.txt", "cannot be reached"]),
    "hub unreachable": ([{"dataset": "org/name"}], {}, ["org/name", "connect to the network"]),
}  # fmt: skip


@pytest.mark.parametrize(("sources", "more", "words"), RECIPES.values(), ids=RECIPES)
def test_bad_sources(sources: list[dict[str, Any]], more: dict[str, Any], words: list[str]) -> None:
    line = refusal(*sources, **more)
    for part in words:
        assert part in line


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs", "sftp"])
def test_a_missing_package_is_named(scheme: str) -> None:
    package = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "sftp": "paramiko"}[scheme]
    import importlib.util

    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    line = refusal({"path": f"{scheme}://bucket/text"})
    assert f"{scheme}://bucket/text" in line
    assert f"pip install {package}" in line


def _pipe(at: Path) -> None:
    os.mkfifo(at)


def _socket(at: Path) -> None:
    # The path of a socket may have 107 bytes, so it is bound from within its folder.
    code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, at.name], cwd=at.parent, check=True)


def _device(at: Path) -> None:
    at.symlink_to("/dev/zero")


def _dangling(at: Path) -> None:
    at.symlink_to(at.parent / "gone")


@pytest.mark.parametrize("make", [_pipe, _socket, _device, _dangling], ids=lambda make: make.__name__[1:])
@pytest.mark.parametrize("within", [False, True], ids=["named", "in a folder"])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None], within: bool) -> None:
    place = tmp_path / "a.txt"
    make(place)
    line = refusal({"path": str(tmp_path if within else place)})
    assert f"{place}: a " in line
    assert "exclude it" in line


_AS_NOBODY = """
import os, sys
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.errors import InputError
from inheritune.recipe import Source
os.setgid(65534), os.setuid(65534)
try:
    list_inputs([Source(path=sys.argv[1])])
except InputError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("closed", ["folder", "folder/in", "folder/in/a.txt"])
def test_closed_to_us(closed: str) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not read")
    with tempfile.TemporaryDirectory() as made:  # pytest closes its own folders to others
        top = Path(made)
        top.chmod(0o755)
        (top / "folder" / "in").mkdir(parents=True)
        (top / "folder" / "in" / "a.txt").write_text("text")
        (top / closed).chmod(0o600 if closed.endswith(".txt") else 0o700)
        for path, place in ((top / "folder", top / closed), (top / "folder" / "in" / "a.txt", top / "folder/in/a.txt")):
            words = [sys.executable, "-c", _AS_NOBODY, path]
            line = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            assert line.count("\n") == 1
            assert f"{place}: cannot be read (" in line
            assert "ermission denied); change " in line


def test_what_looks_bad_and_is_good(tmp_path: Path) -> None:
    """White text is no document, large fields are read, and what holds nothing holds nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "white.txt").write_text(" \n\t\n")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "empty.jsonl").write_bytes(b"\n\n")
    (folder / "no rows.csv").write_bytes(b"text\n")
    (folder / "no rows.parquet").write_bytes(parquet({"text": ["", " "]}))
    (folder / "empty.txt.gz").write_bytes(gzip.compress(b""))
    assert read_all({"path": str(folder)}) == []
    large = "x, " * 400_000
    (folder / "large.csv").write_text(f'id,text\n1,"{large}"\n')
    (folder / "name\nwith a line end.txt").write_text("text")
    assert read_all({"path": str(folder)}) == [large, "text"]
