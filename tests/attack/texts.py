"""Texts that cannot be read, or have nothing to train on."""

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.attack import faults
from tests.attack.worker import Case

if TYPE_CHECKING:
    from tests.attack.inputs import Tables

GOOD = [
    {"text": f"the small model keeps {number} of the blocks and learns again what it has lost"} for number in range(200)
]


def lines(rows: list[Any]) -> bytes:
    """Rows as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def _csv(rows: list[dict[str, str]]) -> bytes:
    return b"text,id\n" + b"".join(f'"{row["text"]}",1\n'.encode() for row in rows)


def good_files() -> dict[str, bytes]:
    """A file of each kind that can be read, by its name."""
    plain = "\n\n".join(row["text"] for row in GOOD).encode()
    rows = lines(GOOD)
    return {
        "a.txt": plain, "a.md": plain, "a.jsonl": rows, "a.ndjson": rows, "a.csv": _csv(GOOD),
        "a.txt.gz": gzip.compress(plain), "a.jsonl.gz": gzip.compress(rows), "a.csv.gz": gzip.compress(_csv(GOOD)),
        "a.txt.zst": _zstd(plain), "a.jsonl.zst": _zstd(rows), "a.parquet": _parquet({"text": [row["text"] for row in GOOD]}),
    }  # fmt: skip


# Contents that are refused, by the kind of file that they are given as.
BAD_ROWS: dict[str, bytes] = {
    "a row cut short": lines(GOOD[:20]) + b'{"text": "a',
    "a row that is no JSON": lines(GOOD[:20]) + b"text\n",
    "a list": b'["text"]\n',
    "a number": b"5\n",
    "no text": lines([{"body": "a"}] * 3),
    "text that is null": lines([*GOOD[:20], {"text": None}]),
    "text that is a number": lines([*GOOD[:20], {"text": 5}]),
    "text that is a list": lines([*GOOD[:20], {"text": ["a"]}]),
    "NaN": lines(GOOD[:20]) + b"NaN\n",
    "100,000 levels": lines(GOOD[:20]) + b"[" * 100_000 + b"\n",
    "half a character": lines(GOOD[:20]) + b'{"text": "\\ud800"}\n',
    "not UTF-8": lines(GOOD[:20]) + b'{"text": "caf\xe9"}\n',
    "a NUL": lines(GOOD[:20]) + b'{"text": "\0"}\n',
    "only blanks": lines([{"text": " "}] * 50),
    "nothing": b"\n\n\n",
}
BAD_TEXTS: dict[str, bytes] = {
    "empty": b"", "blank": b" \n \n", "binary": random.Random(0).randbytes(5000), "zeros": bytes(5000),
    "Latin-1": "café ".encode("latin-1") * 300, "UTF-16": ("text " * 300).encode("utf-16"), "UTF-32": ("text " * 300).encode("utf-32"),
    "UTF-8 cut short": ("ä" * 300).encode()[:-1], "surrogates": b"text \xed\xa0\x80 " * 300, "an overlong form": b"text \xc0\xaf " * 300,
    "a few words": b"a few words\n", "a line of 33 MB": b"x" * 33_000_000,
}  # fmt: skip
BAD_CSV: dict[str, bytes] = {
    "no header": b"1,some words\n2,more\n", "a row too short": b"id,text\n1\n", "a row too long": b"id,text\n1,a,b\n",
    "a quote never closed": b'text,id\n"a,1\nb,2\n', "a NUL": b"text\na\n\0\n", "not UTF-8": b"text\na\n\xe9\n", "a loose quote": b'text\n"a"b\n',
    "a header alone": b"text\n", "blank": b"\n \n", "a field of 200 KB": b"text,id\n" + b"x" * 200_000 + b"\n",
}  # fmt: skip

ODD_PATHS: dict[str, tuple[str, ...]] = {
    "no such file": ("nowhere.txt",), "an empty folder": ("empty",), "no such pattern": ("empty/*.txt",), "a folder of folders": ("nest",),
    "an address of no kind": ("nosuch://bucket/a.txt",), "an address that is none": ("http://",), "a port that is none": ("http://127.0.0.1:99999/a.txt",),
    "nobody listens": ("http://127.0.0.1:9/a.txt",), "a device": ("/dev/zero",), "a random device": ("/dev/urandom",), "a terminal": ("/dev/tty",),
    "a kernel's file": ("/proc/kmsg",), "this process's memory": ("/proc/self/mem",), "a long name": ("x" * 5000,), "a long path": ("x/" * 3000,),
    "two of the same": ("a.txt", "a.txt"), "a pattern of brackets": ("[",), "a hub id": ("hf://datasets/nobody/nothing",), "an archive": ("a.tar.gz",),
    "a suffix of no kind": ("a.docx",), "dots": ("..",), "empty": ("",), "a blank": (" ",), "a NUL": ("a\0b",), "half a character": ("a\udcffb",),
    "a newline": ("a\nb",), "stars": ("**/**/**",), "the root": ("/proc/1",), "a user": ("~nobody/x",), "a chain": ("zip://a.txt::nowhere.zip",),
    "file": ("file:///nowhere/a.txt",), "memory": ("memory://a.txt",), "s3": ("s3://no/such",),
}  # fmt: skip


def _made(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content() if callable(content) else content)


def _odd(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "nest" / "a" / "b").mkdir(parents=True)
    (folder / "a.txt").write_bytes(good_files()["a.txt"])
    for name in ("a.docx", "a.tar.gz"):
        (folder / name).write_bytes(b"PK\3\4 no text")


def cases(tables: "Tables") -> Iterator[Case]:
    """Texts for the commands that read them."""
    model, kept = tables.places["model"], (".out.work*", ".out.lock", "out/.lock")
    commands: dict[str, tuple[str, ...]] = {
        "prepare": ("--tokenizer", model, "--validation", "200 tokens", "--out", "out", "--quiet"),
        "evaluate": (model, "--sequence-length", "16", "--out", "out", "--quiet"),
        "analyze": (model, "--sequences", "2", "--length", "16", "--out", "out", "--quiet"),
        "choose": (model, "out", "--layers", "2", "--choose", "rank", "--calibration", "64 tokens"),
    }

    def words(command: str, *paths: str, more: tuple[str, ...] = ()) -> tuple[str, ...]:
        if command == "prepare":
            return ("prepare", *paths, *commands[command], *more)
        given = [word for path in paths for word in ("--text", path)]
        return ("inherit" if command == "choose" else command, *commands[command], *given)

    every = good_files()
    bad: list[tuple[str, str, Any, tuple[str, ...]]] = []
    for name, content in every.items():
        blocks = (
            () if name.partition(".")[2] not in ("txt", "md", "txt.gz", "txt.zst") else ("--document", "blank line")
        )
        yield Case(
            f"texts: prepare: {name}: control",
            words("prepare", name, more=blocks),
            _made(name, content),
            (0,),
            makes=("out/manifest.json",),
        )
        table = faults.PLACES | ({} if name in ("a.txt", "a.md") else faults.BYTES)
        for title, fault in table.items():
            bad.append((f"{name}: {title}", name, _damaged(tables, name, content, fault), ()))
    for suffix, contents in (("jsonl", BAD_ROWS), ("txt", BAD_TEXTS), ("csv", BAD_CSV)):
        for title, content in contents.items():
            bad.append((f"{suffix}: {title}", f"a.{suffix}", _made(f"a.{suffix}", content), ()))
            bad.append(
                (
                    f"{suffix}.gz: {title}",
                    f"a.{suffix}.gz",
                    _made(f"a.{suffix}.gz", lambda content=content: gzip.compress(content)),
                    (),
                )
            )
            bad.append(
                (
                    f"{suffix}.zst: {title}",
                    f"a.{suffix}.zst",
                    _made(f"a.{suffix}.zst", lambda content=content: _zstd(content)),
                    (),
                )
            )
    for title, columns in {
        "no text": {"id": [1]},
        "numbers": {"text": [1]},
        "lists": {"text": [["a"]]},
        "nulls": {"text": ["a", None]},
        "no rows": {"text": []},
    }.items():
        bad.append(
            (f"parquet: {title}", "a.parquet", _made("a.parquet", lambda columns=columns: _parquet(columns)), ())
        )
    for title, name, change, more in bad:
        for command in commands:
            # the others read as much as they need, and a few words are enough to be judged on
            whole = command == "prepare" or (command == "evaluate" and not title.endswith("a few words"))
            yield Case(
                f"texts: {command}: {title}",
                words(command, name, more=more),
                change,
                (2,) if whole else (0, 2),
                (f"{name}|data",),
                keeps=kept,
            )
    for title, paths in ODD_PATHS.items():
        for command in commands:
            status = (0, 2) if title in ("two of the same", "dots", "stars", "a chain") else (2,)
            yield Case(f"texts: {command}: path: {title}", words(command, *paths), _odd, status, keeps=kept)
    wrong = (
        "--document",
        "--encoding",
        "--text-key",
        "--split",
        "--limit",
        "--on-error",
        "--name",
        "--include",
        "--size",
        "--validation",
        "--seed",
    )
    for option in wrong:
        for number, value in enumerate(
            (
                "",
                " ",
                "x",
                "-1",
                "0",
                "9",
                "nan",
                "1e999",
                "\0",
                "\udcff",
                "a\nb",
                "9" * 400,
                "utf-7",
                "rot13",
                "base64",
                "[",
                "1 tokens",
                "-5 tokens",
                "1e9 tokens",
                "9" * 30 + "T tokens",
                "null",
                "{}",
            )
        ):
            yield Case(
                f"texts: prepare: {option}: {number}", words("prepare", "a.txt", more=(option, value)), _odd, (0, 2), (option.strip("-").partition("-")[0] + "|a.txt|data|NUL|UTF-8|name",),
                keeps=kept,
            )  # fmt: skip


def _damaged(tables: "Tables", name: str, content: bytes, fault: faults.Fault) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        fault(folder / name, tables.draw(name))

    return change
