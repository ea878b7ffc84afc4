"""Documents read from files of every kind, compared with what was written into them."""

import codecs
import csv
import gzip
import io
import itertools
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inheritune.corpus.sources.inputs import Input, list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.corpus.sources.texts import Text
from inheritune.errors import InputError, RunError
from inheritune.recipe import Source

TEXTS = [
    "alpha",
    "two\nlines",
    "  ",
    "naïve – 東京 😀",
    'a "quoted", one',
    "",
    "x" * 3000,
    "tab\tand \\ back",
    "0\r\n1",
]
KEPT = [text for text in TEXTS if text.strip()]


def never(place: str, reason: str) -> None:
    raise AssertionError(f"{place}: {reason}")


def documents(path: Any, range_bytes: int = 10**9, seed: int = 1, skipped: Any = never, **source: Any) -> list[Text]:
    """All documents of a source, through inputs that have travelled to another process."""
    made = Source.model_validate({"path": str(path), **source})
    inputs = pickle.loads(pickle.dumps(list_inputs([made], range_bytes)))
    return [text for one in inputs for text in read(one, made, skipped, seed=seed)]


def texts(*words: Any, **more: Any) -> list[str]:
    return [document.text for document in documents(*words, **more)]


def zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def records(of: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in of).encode()


def table(of: list[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], *([str(i), text] for i, text in enumerate(of))])
    return out.getvalue().encode()


def parquet(path: Path, of: list[Any], kind: Any = None, **options: Any) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"id": list(range(len(of))), "text": pa.array(of, kind or pa.string())}), path, **options
    )
    return path


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_each_format_gives_back_the_texts_written(tmp_path: Path, packed: str, mark: bytes) -> None:
    for name, content, expected in (
        ("a.jsonl", records(TEXTS), KEPT),
        ("a.ndjson", records(TEXTS).replace(b"\n", b"\r\n\r\n"), KEPT),
        ("a.csv", table(TEXTS), KEPT),
        ("a.md", "".join(TEXTS).encode(), ["".join(TEXTS)]),
        ("a.txt", b"one\r\n\n two\nthree", ["one\r\n\n two\nthree"]),
    ):
        file = tmp_path / (name + packed)
        file.write_bytes(PACK[packed](mark + content))
        assert texts(file) == expected


@pytest.mark.parametrize("packed", PACK)
def test_rules(tmp_path: Path, packed: str) -> None:
    def found(content: str, **rule: str) -> list[str]:
        (tmp_path / f"a.txt{packed}").write_bytes(PACK[packed](content.encode()))
        return texts(tmp_path / f"a.txt{packed}", **rule)

    assert found("one\n\ntwo\r\nthree", document="line") == ["one\n", "two\r\n", "three"]
    assert found("\ufeffa\nb\n\n\nc\n \nd", document="blank line") == ["a\nb\n", "c\n", "d"]
    assert found("one two three four five", document="8 characters") == ["one two ", "three fo", "ur five"]
    assert found("one twö three, four five", document="16 characters") == ["one twö three, ", "four five"]
    long = "x y " * 60
    code = f"t = {{'a': {long!r},\n 'b': {long + 'z'!r}}}\nu = 'short\\d'"
    assert found(code, document="string literal") == [long, long + "z"]
    lines = "".join(json.dumps({"body": text}) + "\n" for text in KEPT)
    assert found(lines, document="record", text_key="body") == KEPT  # whatever the name, as for C4's .json.gz


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    many = [f"{number} {'word ' * (number % 50)}" for number in range(2000)]
    for number, (kind, options) in enumerate([
        (pa.string(), {}),
        (pa.large_string(), {"row_group_size": 100}),
        (pa.dictionary(pa.int32(), pa.string()), {"compression": "zstd"}),
        (pa.string_view(), {"row_group_size": 7, "compression": "gzip"}),
    ]):  # fmt: skip
        file = parquet(tmp_path / f"{number}.parquet", many, kind, **options)
        assert texts(file) == many
        assert documents(file)[1].place == f"{file}: row 2"
    assert texts(parquet(tmp_path / "none.parquet", [])) == []


def test_places(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\ntwo\nand\n\n\nthree\n")
    assert [text.place for text in documents(file)] == [str(file)]
    assert [text.place for text in documents(file, document="line")] == [f"{file}: line {n}" for n in (1, 3, 4, 7)]
    assert [text.place for text in documents(file, document="blank line")] == [f"{file}: line {n}" for n in (1, 3, 7)]
    pieces = documents(file, document="9 characters")
    assert [(text.place, text.text) for text in pieces] == [
        (f"{file}: line 1", "one\n\ntwo\n"),
        (f"{file}: line 4", "and\n\n\nthr"),
        (f"{file}: line 7", "ee\n"),
    ]
    (tmp_path / "a.csv").write_text('id,text\n1,"a\nb"\n\n2,c\n')
    assert [text.place[-6:] for text in documents(tmp_path / "a.csv")] == ["line 2", "line 5"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["a", "b" * 30, "", " ", "東京", "\r", "c" * 7]), max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_ranges_together_have_every_line_once(
    tmp_path: Path, lines: list[str], end: str, last: bool, step: int
) -> None:
    file = tmp_path / "a.txt"
    content = end.join(lines) + (end if last else "")
    file.write_bytes((content or "x").encode())
    whole = texts(file, document="line")
    assert texts(file, range_bytes=step, document="line") == whole
    assert whole == [line for line in io.StringIO(content or "x", newline="\n").readlines() if line.strip()]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab  \n\tä東😀"), min_size=1, max_size=200), st.integers(1, 30), st.booleans())
def test_pieces_together_are_the_text(tmp_path: Path, text: str, length: int, packed: bool) -> None:
    file = tmp_path / ("a.txt.gz" if packed else "a.txt")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    found = documents(file, document=f"{length} characters")
    assert all(piece.text == text[piece.offset :][: len(piece.text)] for piece in found)
    pieces = [piece.text for piece in found]
    assert max(map(len, pieces), default=0) <= length
    # White pieces are left out, so all but white space is compared.
    assert "".join("".join(pieces).split()) == "".join(text.split())
    if text.strip() and len(text) <= length:
        assert pieces == [text]


def test_pieces_end_at_white_space_where_there_is_some_near(tmp_path: Path) -> None:
    words = " ".join(random.Random(1).choices(["a", "longer", "longestword", "東京"], k=500_000)).encode()
    (tmp_path / "a.txt").write_bytes(words)
    pieces = texts(tmp_path / "a.txt", document="2K characters")
    assert "".join(pieces).encode() == words
    assert {len(piece) > 1750 for piece in pieces[:-1]} == {True}
    assert all(piece.endswith(" ") or after.startswith(" ") for piece, after in itertools.pairwise(pieces))
    (tmp_path / "b.txt").write_text("x" * 25)
    assert texts(tmp_path / "b.txt", document="10 characters") == ["x" * 10, "x" * 10, "x" * 5]


def test_several_members_and_padding_in_a_packed_file(tmp_path: Path) -> None:
    one, two = records(KEPT[:3]), records(KEPT[3:])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(one) + gzip.compress(b"") + gzip.compress(two) + b"\0" * 50_000)
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(one) + zstd(two))
    assert texts(tmp_path / "a.jsonl.gz") == KEPT
    assert texts(tmp_path / "a.jsonl.zst") == KEPT


def test_nan_beside_the_text_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "kept", "score": NaN, "n": ' + "9" * 50 + "}\n")
    assert texts(tmp_path / "a.jsonl") == ["kept"]


def test_addresses_are_read_as_files_are(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    parquet(tmp_path / "a.parquet", KEPT)
    memory.pipe("/read/a.jsonl", records(TEXTS))
    memory.pipe("/read/b.csv.gz", gzip.compress(table(TEXTS)))
    memory.pipe("/read/c.parquet", (tmp_path / "a.parquet").read_bytes())
    try:
        assert texts("memory://read", range_bytes=100) == KEPT * 3
    finally:
        memory.rm("/read", recursive=True)


SKIP = [
    # Content, lines that are kept, places that are counted.
    ("a.jsonl", records(["a"]) + b'{"text": \n' + b"\xff\n" + records(["b"]) + b"[1]\n", ["a", "b"], [2, 3, 5]),
    ("a.csv", b"id,text\n1,a\n1,\xff\n1\n2,b\n3,x\"y\n4,\"x\"y\n5,c\n", ["a", "b", 'x"y', "c"], [3, 4, 7]),
    ("a.txt", b"a\nb\n\xe9\nc\n\0\n", ["a\n", "b\n", "c\n"], [3, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "kept", "lines"), SKIP, ids=[case[0] for case in SKIP])
@pytest.mark.parametrize("range_bytes", [5, 10**9])
def test_skip_counts_each_with_its_line(
    tmp_path: Path, name: str, content: bytes, kept: list[str], lines: list[int], range_bytes: int
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    rule = {"document": "line"} if name == "a.txt" else {}
    places: list[str] = []
    found = texts(file, range_bytes, skipped=lambda place, _: places.append(place), on_error="skip", **rule)
    assert found == kept
    assert places == [f"{file}: line {line}" for line in lines]
    with pytest.raises(InputError, match=f"line {lines[0]}: .*on_error: skip"):
        texts(file, range_bytes, **rule)


def test_a_line_beyond_the_limit_that_reaches_into_the_next_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inheritune.corpus.sources.lines.LINE_BYTES", 50)
    monkeypatch.setattr("inheritune.corpus.sources.storage.BLOCK", 16)
    file = tmp_path / "a.txt"
    file.write_text("first\n" + "x" * 200 + "\nlast\n")
    faults: list[tuple[str, str]] = []
    kept = texts(file, 100, document="line", on_error="skip", skipped=lambda *fault: faults.append(fault))
    assert kept == ["first\n", "last\n"]
    assert set(faults) == {(str(file), "line 2 has more than 50 bytes")}


def test_skip_in_pieces_and_blocks(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"one two\n\nthree\xff four\nfive\n\nsix")
    places: list[str] = []

    def note(place: str, reason: str) -> None:
        places.append(place)
        assert "not UTF-8" in reason

    found = texts(file, document="blank line", on_error="skip", skipped=note)
    assert found == ["one two\n", "six"]
    pieces = documents(file, document="8 characters", on_error="skip", skipped=note)
    assert [(piece.text, piece.offset) for piece in pieces] == [("one two\n", 0), (" four\nfi", 14), ("ve\n\nsix", 22)]
    assert places == [f"{file}: line 3"] * 2


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz", "a.txt.zst", "a.parquet"])
def test_what_came_before_a_cut_is_kept(tmp_path: Path, name: str) -> None:
    given = [random.Random(number).randbytes(60).hex() for number in range(20_000)]
    file = tmp_path / name
    if name == "a.parquet":
        # Its index stands at the end, so only damage within leaves a part readable.
        content = parquet(file, given, row_group_size=1000, compression="zstd", use_dictionary=False).read_bytes()
        content = content[: len(content) // 2] + bytes(3000) + content[len(content) // 2 + 3000 :]
    else:
        plain = records(given) if "jsonl" in name else "\n".join(given).encode()
        content = PACK["." + name.rpartition(".")[2]](plain)
        content = content[: len(content) // 2]
    file.write_bytes(content)
    rule = {"document": "line"} if "txt" in name else {}
    skipped: list[tuple[str, str]] = []
    found = [text.strip() for text in texts(file, on_error="skip", skipped=lambda *w: skipped.append(w), **rule)]
    assert found == given[: len(found)]
    assert 5_000 < len(found) < 15_000
    assert len(skipped) == 1
    with pytest.raises(InputError, match=f"{name}: .*(cut short|not a whole)"):
        texts(file, **rule)


def test_a_disk_that_fails_is_no_fault_of_the_input(tmp_path: Path) -> None:
    class Lost(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    class Disk(LocalFileSystem):
        protocol = "lost"

        def _open(self, *_: Any, **__: Any) -> Any:
            return Lost()

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("lost://")))

    fsspec.register_implementation("lost", Disk, clobber=True)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(RunError, match=r"a\.txt: .*Input/output error"):
        texts(f"lost://{tmp_path}/a.txt", on_error="skip")


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` waits five seconds at a stream's end for threads that are not to meet the end of the program."""
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def dataset(folder: Path, files: int = 4, rows: int = 25) -> list[str]:
    folder.mkdir()
    for number in range(files):
        parquet(folder / f"train-{number}.parquet", [f"{number} {row}" for row in range(rows)])
    return [f"{number} {row}" for number in range(files) for row in range(rows)]


def streamed(folder: Path, seed: int, **more: Any) -> list[str]:
    source = Source.model_validate({"dataset": str(folder), **more})
    (one,) = list_inputs([source])
    assert one == Input(0, str(folder), None)
    return [text.text for text in read(one, source, never, seed=seed)]


def test_a_data_set_is_drawn_with_the_seed(tmp_path: Path, prompt: None) -> None:
    written = dataset(tmp_path / "set")
    one, again, two = (streamed(tmp_path / "set", seed, buffer=20) for seed in (1, 1, 2))
    assert one == again != two
    assert sorted(one) == sorted(two) == sorted(written)
    assert one != written
    assert len({text.split()[0] for text in one[:10]}) > 1  # not one file after the other


def test_only_the_text_column_of_a_data_set_is_held(tmp_path: Path) -> None:
    from inheritune.corpus.sources.streaming import open_stream

    dataset(tmp_path / "set", 1, 1)
    assert open_stream(Source(dataset=str(tmp_path / "set"))).column_names == ["text"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"split": "test"}, r"Bad split: test.*\['train'\]; set the source's `split`"),
        ({"config": "other"}, "'other' not found.*default.*; set the source's `config`"),
        ({"text_key": "body"}, "no column 'body'; there are: 'id', 'text'; name the column"),
    ],
)
def test_what_a_data_set_does_not_have(tmp_path: Path, more: dict[str, str], words: str) -> None:
    dataset(tmp_path / "set", 1, 1)
    with pytest.raises(InputError, match=words):
        streamed(tmp_path / "set", 1, **more)


def test_data_sets_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match=r"scripts are no longer supported.*give the files .* with `path`"):
        streamed(tmp_path / "script", 1)
    with pytest.raises(InputError, match=r"find any data file at .*; correct `dataset`"):
        streamed(tmp_path / "nowhere", 1)
    with pytest.raises(InputError, match=r"reach 'org/name' on the Hub.*; connect to the network"):
        streamed(Path("org/name"), 1)


def test_a_broken_row_of_a_stream(tmp_path: Path, prompt: None) -> None:
    (tmp_path / "set").mkdir()
    good = "".join(json.dumps({"text": f"{number} " + "word " * 30}) + "\n" for number in range(2000))
    (tmp_path / "set" / "a.jsonl").write_text(good + '{"text": null}\n')
    skipped: list[tuple[str, str]] = []
    source = Source.model_validate({"dataset": str(tmp_path / "set"), "on_error": "skip", "buffer": 1})
    (one,) = list_inputs([source])
    found = list(read(one, source, lambda *words: skipped.append(words), seed=1))
    assert len(found) == 2000
    assert [reason for _, reason in skipped] == ["no text under 'text', but null"]


_PEAK = """
import sys
from pathlib import Path
import orjson, zstandard, pyarrow.parquet
from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.recipe import Source
# getrusage's peak begins with that of the process that started this one
most = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = most()
source = Source(path=sys.argv[1], document=sys.argv[2])
count = sum(1 for one in list_inputs([source], 20_000_000) for _ in read(one, source, print, seed=1))
print(count, most() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read where Linux has it")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt", "a.csv", "a.parquet", "line.txt"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    text = "some words of a document " * 40
    rows = 60_000
    if name == "a.parquet":
        parquet(file, [f"{number} {text}" for number in range(rows)], use_dictionary=False, compression="none")
    elif "csv" in name:
        file.write_text("text\n" + f"{text}\n" * rows)
    else:
        line = "\n" if name != "line.txt" else ""
        plain = (f'{{"text": "{text}"}}\n' if "jsonl" in name else f"{text}{line}") * rows
        file.write_bytes(PACK["" if name.count(".") == 1 else "." + name.rpartition(".")[2]](plain.encode()))
    rule = {"a.txt": "line", "line.txt": "2K characters"}.get(name, "auto")
    done = subprocess.run([sys.executable, "-c", _PEAK, file, rule], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, done.stdout.split())
    assert count >= rows / 2
    assert kilobytes < 40_000  # the text is 60 MB
