"""Calls that must end in an error line within 5 seconds and with 1 GB of memory more than the imports take.

`run` writes bad files to a folder, and to its file `said` a line a case: name, seconds, and error or `none`. A case
that takes too long, or too much memory, ends the process.
"""

import json
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 5, 1 << 30
CONFIG = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 8}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{here}: &{here} [{', '.join([f'*{before}'] * 10)}]\n" for before, here in zip("abcdefgh", "bcdefghi", strict=True)
)


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def large(path: Path, unit: bytes, count: int) -> Path:
    """A JSON list of many times `unit`."""
    put(path, b"[")
    with path.open("ab") as file:
        for _ in range(count // 10_000):
            file.write(unit * 10_000)
        file.write(b"0]")
    return path


def model(folder: Path, **fields: Any) -> Path:
    put(folder / "config.json", json.dumps(CONFIG | {"num_hidden_layers": 2} | fields))
    put(folder / "model.safetensors", struct.pack("<Q", 2) + b"{}")
    return folder


def gguf(path: Path, tensors: int, entries: int, body: bytes = b"") -> Path:
    return put(path, b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body)


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def fifo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def sparse(path: Path, size: int) -> Path:
    with put(path, b"").open("r+b") as file:
        file.truncate(size)
    return path


def link(path: Path, to: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def cases(here: Path) -> dict[str, Callable[[], Any]]:
    """What must be refused, by a name."""
    from inheritune import arch, harness
    from inheritune.arch import load_config, load_tokenizer
    from inheritune.corpus.filters import c4, decontaminate
    from inheritune.corpus.filters.fasttext_model import read_labels
    from inheritune.corpus.sources.inputs import list_inputs
    from inheritune.data.shards import file_size
    from inheritune.limits import check_front_matter
    from inheritune.recipe import Recipe, Reference, Source
    from inheritune.recipe.file import load_file
    from inheritune.runlog import read_json

    def recipe(name: str, content: str, *overrides: str) -> Callable[[], Any]:
        return lambda: load_file(Recipe, put(here / name, content), overrides)

    def config(name: str, change: Callable[[Path], object] = lambda folder: None, **fields: Any) -> Callable[[], Any]:
        def load() -> Any:
            folder = model(here / name, **fields)
            change(folder)
            return load_config(Reference(path=str(folder)))

        return load

    def of_gguf(name: str, *given: Any) -> Callable[[], Any]:
        return lambda: load_config(Reference(path=str(gguf(here / f"{name}.gguf", *given))))

    def at(path: Path) -> Callable[[], Any]:
        return lambda: load_config(Reference(path=str(path)))

    blocks = entry("general.architecture", 8, struct.pack("<Q", 5) + b"llama")
    blocks += entry("llama.block_count", 4, struct.pack("<I", 10**9))
    array = entry("a", 9, struct.pack("<IQ", 4, 10**9))
    bad_base = "base: base.yaml\n"
    return {
        "recipe: aliases": recipe("aliases.yaml", BOMB),
        "recipe: an alias in itself": recipe("itself.yaml", "a: &a\n  - *a\n"),
        "recipe: depth": recipe("depth.yaml", "a: " + "[" * 20_000),
        "recipe: size": recipe("size.yaml", "a: [" + "x, " * 1_000_000 + "x]"),
        "recipe: base with aliases": lambda: (put(here / "base.yaml", BOMB), recipe("with.yaml", bad_base)()),
        "recipe: base is a device": recipe("zero.yaml", "base: /dev/zero\n"),
        "recipe: base is a pipe": lambda: (fifo(here / "pipe"), recipe("p.yaml", "base: pipe\n")()),
        "recipe: a pipe": lambda: load_file(Recipe, fifo(here / "recipe.yaml")),
        "override: aliases": recipe("fine.yaml", "seed: 1\n", "--train=" + "{" + BOMB.replace("\n", ", ") + "}"),
        "task file: aliases": lambda: harness._check_folder(put(here / "tasks" / "a.yaml", BOMB).parent),
        "card: aliases": lambda: check_front_matter(put(here / "README.md", f"---\n{BOMB}---\n# A model\n")),
        "card: a device": lambda: check_front_matter(link(here / "card" / "README.md", "/dev/zero")),
        "config: layers": config("layers", num_hidden_layers=10**5),
        "config: many layers": config("more", num_hidden_layers=10**7),
        "config: layers of a part": config("part", text_config={"num_hidden_layers": 10**6}),
        "config: layers of GPT-2": config("gpt2", model_type="gpt2", n_layer=10**7),
        "config: experts": config("experts", model_type="mixtral", num_local_experts=10**7),
        "config: dropout": config("dropout", attention_dropout=48),
        "config: no number": config("nan", rms_norm_eps=float("nan")),
        "config: width": config("width", hidden_size=10**12),
        "config: labels": config("labels", num_labels=10**9),
        "config: vocabulary": config("vocabulary", vocab_size=10**12),
        "config: size": config("size", lambda folder: large(folder / "config.json", b"0,", 10**7)),
        "config: depth": config("depth", lambda folder: put(folder / "config.json", b"[" * 10**6)),
        "config: a device": config(
            "zero", lambda folder: ((folder / "config.json").unlink(), link(folder / "config.json", "/dev/zero"))
        ),
        "weights: a pipe": config("pipe-weights", lambda folder: fifo(folder / "more.safetensors")),
        "weights: header": config(
            "header",
            lambda folder: put(folder / "model.safetensors", struct.pack("<Q", 17 * 10**6) + b" " * (18 * 10**6)),
        ),
        "index: size": config(
            "index", lambda folder: large(folder / "model.safetensors.index.json", b"0,", 11_000_000)
        ),
        "gguf: blocks": of_gguf("blocks", 0, 2, blocks),
        "gguf: entries": of_gguf("entries", 0, 10**18),
        "gguf: tensors": of_gguf("tensors", 10**18, 0),
        "gguf: an array": of_gguf("array", 0, 1, array + b"\0" * 1000),
        "gguf: arrays in arrays": of_gguf("nested", 0, 1, entry("a", 9, struct.pack("<IQ", 9, 1) * 100)),
        "gguf: text": of_gguf("text", 0, 1, struct.pack("<Q", 2**63)),
        "gguf: a pipe": lambda: at(fifo(here / "pipe.gguf"))(),
        "gguf: a device": lambda: at(link(here / "zero.gguf", "/dev/zero"))(),
        "tokenizer: a pipe": lambda: load_tokenizer(Reference(path=str(fifo(here / "t" / "tokenizer.json").parent))),
        "tokenizer: settings": lambda: load_tokenizer(
            Reference(path=str(large(here / "u" / "tokenizer_config.json", b"0,", 10**7).parent))
        ),
        "tokenizer: values": lambda: load_tokenizer(
            Reference(path=str(large(here / "v" / "tokenizer.json", b"[],", 12_000_000).parent))
        ),
        "reference: a device": lambda: load_config(Reference(path="/dev/zero")),
        "source: a device": lambda: list_inputs([Source(path="/dev/zero")]),
        "source: a device behind an address": lambda: list_inputs([Source(path="local:///dev/zero")]),
        "source: a pipe": lambda: list_inputs([Source(path=str(fifo(here / "texts" / "a.txt").parent))]),
        "words: a device": lambda: c4._read_words(Path("/dev/zero"), "filters"),
        "words: a pipe": lambda: c4._read_words(fifo(here / "words"), "filters"),
        "benchmark: a device": lambda: list(
            decontaminate._read(link(here / "zero.txt", "/dev/zero"), ["text"], "filters")
        ),
        "classifier: a pipe": lambda: read_labels(fifo(here / "labels.bin"), "filters"),
        "token file: a pipe": lambda: file_size(fifo(here / "train.bin"), "get it"),
        "result: a terabyte": lambda: read_json(sparse(here / "evaluation.json", 1 << 40)),
        "new model: layers": lambda: arch.new_config({"model_type": "gpt2", "n_layer": 10**7}, 300, {}, 16),
    }


def run(rank: int, folder: Path) -> None:
    """All cases; to be called in a process of its own."""
    from inheritune.errors import InputError

    def late(number: int, frame: object) -> None:
        sys.exit(f"{SECONDS} seconds were not enough for {name}")

    name = "the imports"
    every = cases(folder)
    import_module("gguf")
    import_module("lm_eval.tasks._yaml_loader")
    import_module("transformers.models.auto.tokenization_auto")

    signal.signal(signal.SIGALRM, late)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    for name, call in every.items():
        signal.alarm(SECONDS)
        began = time.monotonic()
        try:
            call()
            said = "none"
        except InputError as error:
            said = str(error)
        signal.alarm(0)
        with (folder / "said").open("a", encoding="utf-8") as file:
            file.write(f"{name}\t{time.monotonic() - began:.2f}\t{said[:400]}\n")
