"""The rate of preparing text, beside a bare `encode_batch` and `datasets.map`, in one run, alternating; and its memory.

    python benchmarks/tokenising.py                              # 100 MB, three rounds
    python benchmarks/tokenising.py --megabytes 1000 --ways inheritune --rounds 1

The text is made of the lines of the running Python's standard library and its documentation, drawn at random into
documents of a few thousand characters, one a line of .jsonl. The tokenizer (byte-level BPE) is learnt from the same
text. Each way runs in a process of its own:

- `encode_batch`: all documents in memory, `tokenizers` alone, in batches of 1,000; reading is outside its clock, and
  nothing is written
- `datasets.map`: `load_dataset`, a map that tokenises and one that groups to 1,024 tokens, on as many processes as
  there are processors; its clock has reading, both maps and the arrow files that they write
- `inheritune`: `prepare` from file to shards: reading, hashing, tokenising, drawing, writing, checksums
- `tokenise`: its stage of tokenising alone

Memory is the largest resident memory of any process of the way (VmHWM), that of imports included.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("encode_batch", "datasets.map", "inheritune", "tokenise")


def make_text(file: Path, megabytes: int) -> None:
    """Documents of 5 to 200 lines drawn from the standard library, about 3,000 characters each."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    lines = [
        line
        for source in sources
        if "site-packages" not in source.parts
        for line in source.read_text(encoding="utf-8", errors="ignore").splitlines()
    ]
    draw = random.Random(1)
    size = 0
    with file.open("w", encoding="utf-8") as out:
        while size < megabytes * 1_000_000:
            text = "\n".join(draw.choices(lines, k=draw.randint(5, 200)))
            size += out.write(json.dumps({"text": text}) + "\n")


def make_tokenizer(text: Path, folder: Path) -> None:
    """A vocabulary of 32,768, learnt from the first 20 MB."""
    from inheritune.data import train_tokenizer

    def texts() -> Any:
        with text.open(encoding="utf-8") as file:
            for line in file.readlines(20_000_000):
                yield json.loads(line)["text"]

    train_tokenizer(texts(), 32_768).save_pretrained(folder)


def bare(text: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    with text.open(encoding="utf-8") as file:
        documents = [json.loads(line)["text"] for line in file]
    began = time.perf_counter()
    tokens = 0
    for at in range(0, len(documents), 1000):
        tokens += sum(len(found) for found in core.encode_batch(documents[at : at + 1000], add_special_tokens=False))
    return {"tokens": tokens + len(documents), "seconds": time.perf_counter() - began}


def mapped(text: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    core = AutoTokenizer.from_pretrained(tokenizer)

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = core(rows["text"], add_special_tokens=False, verbose=False)["input_ids"]
        return {"input_ids": [[*ids, core.eos_token_id] for ids in found]}

    def group(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        row = [token for ids in rows["input_ids"] for token in ids]
        return {"input_ids": [row[at : at + 1024] for at in range(0, len(row) - 1023, 1024)]}

    cores = os.cpu_count() or 1
    began = time.perf_counter()
    found = datasets.load_dataset("json", data_files=str(text), split="train", cache_dir=str(out))
    found = found.map(encode, batched=True, num_proc=cores, remove_columns=found.column_names)
    found = found.map(group, batched=True, num_proc=cores)
    return {"tokens": len(found) * 1024, "seconds": time.perf_counter() - began}


def ours(text: Path, tokenizer: Path, out: Path) -> dict[str, float]:
    from transformers import AutoTokenizer

    from inheritune.corpus import prepare
    from inheritune.runlog import logger

    core = AutoTokenizer.from_pretrained(tokenizer)
    request = {"sources": [{"path": str(text)}], "validation": "100K tokens"}
    began = time.perf_counter()
    stages: list[tuple[str, float]] = []
    logger.setLevel("INFO")
    logger.addFilter(lambda record: stages.append((record.getMessage(), time.perf_counter())) or True)
    prepared = prepare(request, core, out / "data")
    ended = time.perf_counter()
    spent = next(at for line, at in stages if line == "data: tokenising")
    until = next(at for line, at in stages if line == "data: writing")
    tokens = sum(prepared.manifest["tokens"].values())
    return {"tokens": tokens, "seconds": ended - began, "tokenise": until - spent}


def one_way(way: str, text: Path, tokenizer: Path, out: Path) -> None:
    """Done in a child process: carry out one way and print its figures as JSON."""
    found = {"encode_batch": bare, "datasets.map": mapped, "inheritune": ours}[way](text, tokenizer, out)
    peak = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({**found, "megabytes": max(peak, workers) / 1000}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="of .jsonl text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS[:3], default=list(WAYS[:3]))
    parser.add_argument("--folder", type=Path, help="where the text is made; default: a temporary folder")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        way, *places = chosen.one
        one_way(way, *map(Path, places))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        text, tokenizer = Path(folder) / "text.jsonl", Path(folder) / "tokenizer"
        make_text(text, chosen.megabytes)
        make_tokenizer(text, tokenizer)
        rates: dict[str, list[float]] = {}
        memory: dict[str, float] = {}
        for number in range(chosen.rounds):
            for way in chosen.ways:
                out = Path(folder) / f"{way}-{number}"
                out.mkdir()
                command = [sys.executable, __file__, "--one", way, str(text), str(tokenizer), str(out)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                figures = json.loads(answer.splitlines()[-1])
                rates.setdefault(way, []).append(figures["tokens"] / figures["seconds"])
                if "tokenise" in figures:
                    rates.setdefault("tokenise", []).append(figures["tokens"] / figures["tokenise"])
                memory[way] = max(memory.get(way, 0), figures["megabytes"])
                subprocess.run(["rm", "-rf", str(out)], check=True)
        show(rates, memory, chosen.megabytes)


def show(rates: dict[str, list[float]], memory: dict[str, float], megabytes: int) -> None:
    """Medians of the rounds, and of the ratios to `encode_batch` within a round."""
    print(f"{megabytes} MB, {os.cpu_count()} processors, {len(next(iter(rates.values())))} rounds")
    for way in WAYS:
        if way in rates:
            ratio = ""
            if "encode_batch" in rates:
                ratios = [mine / its for mine, its in zip(rates[way], rates["encode_batch"], strict=True)]
                ratio = f"  {statistics.median(ratios):.2f} of encode_batch ({min(ratios):.2f} to {max(ratios):.2f})"
            used = f"  {memory[way]:,.0f} MB" if way in memory else ""
            print(f"{way:14} {statistics.median(rates[way]):12,.0f} tokens/s{ratio}{used}")


if __name__ == "__main__":
    main()
