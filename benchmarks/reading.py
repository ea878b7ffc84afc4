"""What reading text costs: megabytes a second of each format beside a bare loop, in one run, and the peak of memory.

    python benchmarks/reading.py                 # 100 MB of text in each format
    python benchmarks/reading.py --megabytes 300

The text is random words. The bare loop does the least that gives the same characters: `orjson.loads` on each line of
an open file, `csv.reader`, pyarrow's batches. They take turns; the best of three runs counts. Memory is the peak of a
process of its own which reads the file once, less its peak after its imports (Linux).
"""

import argparse
import csv
import gzip
import importlib
import io
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CASES = {
    "text.jsonl": "auto",
    "text.jsonl.gz": "auto",
    "text.jsonl.zst": "auto",
    "text.csv": "auto",
    "text.parquet": "auto",
    "lines.txt": "line",
    "one line.txt": "2K characters",
}


def write(folder: Path, characters: int) -> None:
    """Each format with the same documents; the parquet file in a single row group, its hardest case for memory."""
    import pyarrow as pa
    import zstandard
    from pyarrow import parquet

    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(20_000)]
    texts: list[str] = []
    size = 0
    while size < characters:
        texts.append(" ".join(draw.choices(words, k=draw.randint(50, 800))))
        size += len(texts[-1])
    records = "".join(json.dumps({"text": text, "meta": {"url": "http://x"}}) + "\n" for text in texts).encode()
    (folder / "text.jsonl").write_bytes(records)
    (folder / "text.jsonl.gz").write_bytes(gzip.compress(records, 6))
    (folder / "text.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(records))
    (folder / "lines.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "one line.txt").write_text(" ".join(texts), encoding="utf-8")
    with (folder / "text.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    table = pa.table({"id": list(range(len(texts))), "text": texts})
    parquet.write_table(table, folder / "text.parquet", row_group_size=len(texts), compression="zstd")


def bare(file: Path) -> int:
    """Characters of the texts, by the shortest loop."""
    import orjson
    import zstandard
    from pyarrow.parquet import ParquetFile

    def records(lines: io.BufferedIOBase) -> int:
        with lines:
            return sum(len(orjson.loads(line)["text"]) for line in lines)

    if file.name == "text.csv":
        with file.open(newline="", encoding="utf-8") as rows:
            next(rows)
            return sum(len(row[1]) for row in csv.reader(rows))
    if file.suffix == ".parquet":
        batches = ParquetFile(file).iter_batches(columns=["text"], use_threads=False)
        return sum(len(text) for batch in batches for text in batch.column(0).to_pylist())
    if file.suffix == ".gz":
        return records(io.BufferedReader(gzip.open(file, "rb")))  # type: ignore[arg-type]
    if file.suffix == ".zst":
        return records(io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file.open("rb")), 1 << 20))
    if file.suffix == ".jsonl":
        return records(file.open("rb", buffering=1 << 20))
    with file.open("rb", buffering=1 << 20) as lines:
        pieces = lines if file.name == "lines.txt" else iter(lambda: lines.read(2000), b"")
        return sum(len(piece.decode()) for piece in pieces)


def ours(file: Path) -> int:
    """Characters of the texts, as a preparation reads them."""
    from inheritune.corpus.sources.inputs import list_inputs
    from inheritune.corpus.sources.reading import read
    from inheritune.recipe import Source

    source = Source(path=str(file), document=CASES[file.name])
    return sum(len(text.text) for one in list_inputs([source]) for text in read(one, source, print, seed=1))


def rate(way: Callable[[Path], int], file: Path) -> float:
    """Characters a second."""
    began = time.perf_counter()
    return way(file) / (time.perf_counter() - began)


def peak(file: Path) -> int:
    """Bytes that reading the file adds to a process that has imported everything."""
    done = subprocess.run([sys.executable, __file__, "--read", file], capture_output=True, text=True, check=True)
    return int(done.stdout)


def measure_peak(file: Path) -> None:
    for name in ("orjson", "zstandard", "pyarrow.parquet", "inheritune.corpus.sources.reading"):
        importlib.import_module(name)
    before = _most()
    ours(file)
    print(_most() - before)


def _most() -> int:
    """Peak of resident memory, in bytes. Not getrusage's, which begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="text in each file")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read is not None:
        measure_peak(given.read)
        return
    print(f"{given.megabytes} MB of text; {platform.machine()}, Python {platform.python_version()}, one process")
    print("| file | `document` | bare loop, MB/s | read, MB/s | share | memory added, MB |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as made:
        write(Path(made), given.megabytes * 10**6)
        for name, rule in CASES.items():
            file = Path(made) / name
            runs = [(rate(bare, file), rate(ours, file)) for _ in range(3)]
            least, read = (max(column) / 1e6 for column in zip(*runs, strict=True))
            print(f"| {name} | {rule} | {least:.0f} | {read:.0f} | {read / least:.2f} | {peak(file) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
