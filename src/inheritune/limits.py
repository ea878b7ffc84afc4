"""Limits on files of others, checked before anything is built from a file. docs/security.md lists them."""

import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from inheritune.errors import InputError

YAML_BYTES = 200_000
"""A recipe, a suite, a base, a task file, the metadata of a card."""
YAML_NODES = 100_000
"""Values of such a file, with every alias written out; 64 characters of a text count as one."""
YAML_DEPTH = 50
"""Mappings and lists inside each other."""
CARD_BYTES = 5_000_000
"""A model's README.md."""
JSON_BYTES = 16_000_000
"""A JSON file of a model, such as config.json."""
VOCABULARY_BYTES = 128_000_000
"""A file of a tokenizer, or the index of weight files."""
JSON_VALUES = 10_000_000
"""Values in a JSON file of a model."""
HEADER_BYTES = 10_000_000
"""The header of a safetensors file."""
GGUF_ENTRIES = 10_000
"""Entries of metadata in a .gguf file."""
GGUF_TENSORS = 100_000
"""Tensors in a .gguf file."""
GGUF_VALUES = 5_000_000
"""Values in all the arrays of a .gguf file's metadata together."""
LAYERS = 1000
"""Blocks of a model."""
EXPERTS = 100_000
"""Experts of a model, over all blocks."""
LABELS = 10_000
"""Classes of a classifier, of which transformers makes lists whatever the model is."""
WIDTH = 2**24
"""The vocabulary, a hidden size or a number of heads."""
BATCH = 2**24
"""Sequences of a batch of training."""
PYTHON_BYTES = 4_000_000
"""A Python file whose string literals are documents."""
DOCUMENT = 16_000_000
"""Characters of one document."""
LINE_BYTES = 32_000_000
"""Bytes of a line, a block, a record, or a file that is one document."""
WORDS_BYTES = 16_000_000
"""A list of words."""
BENCHMARK_BYTES = 200_000_000
"""A file of documents that training text must not contain."""
RESULT_BYTES = 256_000_000
"""A JSON file of ours; the largest holds a loss for each validation sequence."""
METRICS_BYTES = 1_000_000_000
"""metrics.jsonl: a line for each step of a training."""
BATCH_BYTES = 64_000_000
"""Text of a table that is unpacked at once."""
CHUNK_BYTES, CHUNK_RATIO = 256_000_000, 100
"""A column of a row group may unpack to so many bytes, or to so many times what is stored, whichever is more."""

_CHARACTERS = 64  # of a text in YAML count as one value
_VOCABULARIES = ("tokenizer.json", "vocab.json", "tekken.json", "added_tokens.json")
_TEXTS = (".txt", ".model", ".jinja", ".tiktoken", ".vocab")
_LAYER_KEY = re.compile(r"(layers?|blocks?|depth|block_count|layer_count)$")
_EXPERT_KEY = re.compile(r"(num_experts|n_routed_experts|num_local_experts|moe_num_experts|expert_count)$")
_SHARE_KEY = re.compile(r"(dropout|dropout_prob|drop|pdrop)$")
_WIDTH_KEY = re.compile(
    r"(vocab_size|hidden_size|intermediate_size|head_dim|n_embd|d_model|heads|n_head|ffn_dim|n_inner|embed_dim"
    r"|hidden_dim|embedding_length|feed_forward_length|head_count|head_count_kv)$"
)


def check_regular(path: Path) -> int:
    """The size in bytes of a regular file, links followed.

    Raises InputError for a pipe, a socket or a device, OSError for a folder and where there is nothing.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise InputError(str(path), "a pipe, socket or device, not a file", "give a regular file")
    return status.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes. Raises InputError for others, OSError where reading fails."""
    size = check_regular(path)
    if size <= most:
        content = _read(path, most + 1)  # a file may grow, and the system's own files state no size
        size = len(content)
    if size > most:
        raise InputError(str(path), f"more than {most:,} bytes", "give a smaller file: see docs/security.md")
    return content


def _read(path: Path, count: int) -> bytes:
    """The first bytes of a file; an error of the disk gets the file's name, which Python omits."""
    with path.open("rb") as file:
        try:
            return file.read(count)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def read_text(path: Path, most: int) -> str:
    """As `read_bytes`, for UTF-8 text; also raises UnicodeDecodeError."""
    return read_bytes(path, most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def check_yaml(text: str, place: str) -> None:
    """Raise InputError for YAML that is deeper or, with every alias written out, larger than the limits.

    Nothing is built: only the parser's events are counted. Raises YAMLError where it is no YAML.
    """
    sizes: dict[str, int] = {}
    holders: list[str | None] = []  # the anchors of open mappings and lists
    counts = [0]
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(text, Loader=parser):
        where = f"{place}:{event.start_mark.line + 1}" if event.start_mark else place
        if isinstance(event, yaml.CollectionStartEvent):
            holders.append(event.anchor)
            counts.append(0)
            if len(holders) > YAML_DEPTH:
                raise InputError(where, f"more than {YAML_DEPTH} levels of mappings and lists", "write it flatter")
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value) // _CHARACTERS
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = holders.pop(), 1 + counts.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor = None
            if event.anchor in holders:
                raise InputError(where, f"the alias *{event.anchor} is inside what it names", "write it out")
            size = sizes.get(str(event.anchor), 1)
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        counts[-1] += size
        if counts[-1] > YAML_NODES:
            what = f"more than {YAML_NODES:,} values, with every alias written out"
            raise InputError(where, what, "make it smaller, with fewer aliases")


def check_front_matter(card: Path) -> None:
    """Raise InputError for a model card that is too large, or whose metadata is."""
    text = read_bytes(card, CARD_BYTES).decode("utf-8", errors="replace")
    lines = text.lstrip("\ufeff").split("\n")
    if lines[0].strip() != "---":
        return
    end = next((at for at, line in enumerate(lines[1:], 1) if line.strip() == "---"), len(lines))
    metadata = "\n".join(lines[1:end])
    if len(metadata) > YAML_BYTES:
        raise InputError(str(card), f"metadata of more than {YAML_BYTES:,} characters", "shorten it")
    check_yaml(metadata, str(card))


def check_yaml_file(file: Path) -> None:
    """Raise InputError for a YAML file that is too large. Its reader reports other faults."""
    try:
        check_yaml(read_text(file, YAML_BYTES), str(file))
    except (yaml.YAMLError, UnicodeDecodeError):
        return


def read_json(path: Path, kind: str = "JSON") -> Any:
    """A JSON file of a model; `kind` is what it should be.

    Raises InputError where it is too large or no JSON, OSError where it cannot be read.
    """
    raw = read_bytes(path, VOCABULARY_BYTES if _is_vocabulary(path.name) else JSON_BYTES)
    _check_values(raw, path)
    try:
        return json.loads(raw)
    except RecursionError:
        raise InputError(str(path), "lists and objects too deep inside each other", "get the file again") from None
    except ValueError as error:
        raise InputError(str(path), f"not {kind} ({error})", "get the file again") from None


def check_folder(folder: Path) -> None:
    """Raise InputError where a model's or tokenizer's folder has a pipe, a socket, a device, or a file that is too
    large.
    """
    with os.scandir(folder) as entries:
        files = sorted(Path(entry.path) for entry in entries)
    for file in files:
        if file.exists() and not file.is_dir():  # a reader reports a link to a missing file
            check_file(file)


def check_file(file: Path) -> None:
    """As `check_folder`, for one file of a model or tokenizer."""
    size = check_regular(file)
    text = _is_vocabulary(file.name) or file.suffix in _TEXTS
    most = VOCABULARY_BYTES if text else JSON_BYTES if file.suffix == ".json" else None
    if most is not None and size > most:
        raise InputError(str(file), f"{size:,} bytes, at most {most:,} are read", "get the file again")
    if file.suffix == ".json" and size > JSON_VALUES:
        _check_values(read_bytes(file, VOCABULARY_BYTES), file)


def check_counts(fields: Mapping[str, Any], place: str) -> None:
    """Raise InputError for a config, or a .gguf file's metadata, with more blocks, experts or width than the limits, or
    with NaN.
    """
    layers, experts, remedy = 1, 0, "get the file again, or correct the number"
    nodes: list[Any] = [fields]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list | tuple):
            nodes.extend(value for value in node if isinstance(value, Mapping | list | tuple))
            continue
        for key, value in node.items():
            if isinstance(value, Mapping | list | tuple):
                nodes.append(value)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            where = f"{place}: {key}"
            if value != value:
                raise InputError(where, "NaN, which is no number", remedy)
            if _LAYER_KEY.search(key):
                if value > LAYERS:
                    raise InputError(where, f"{value:,}, at most {LAYERS:,} blocks are taken", remedy)
                layers = max(layers, int(value))
            elif _EXPERT_KEY.search(key):
                experts = max(experts, int(value))
            elif key == "num_labels" and value > LABELS:
                raise InputError(where, f"{value:,}, at most {LABELS:,} labels are taken", remedy)
            elif _WIDTH_KEY.search(key) and value > WIDTH:
                raise InputError(where, f"{value:,}, at most {WIDTH:,} is taken", remedy)
            elif _SHARE_KEY.search(key) and not 0 <= value <= 1:
                raise InputError(where, f"{value}, legal is 0 to 1", remedy)
    if layers * experts > EXPERTS:
        what = f"{layers:,} blocks of {experts:,} experts, at most {EXPERTS:,} experts are taken in all"
        raise InputError(place, what, remedy)


def check_header(file: Path) -> None:
    """Raise InputError for a safetensors file whose header is too large. Its reader reports other faults."""
    size = int.from_bytes(_read(file, 8), "little")
    if HEADER_BYTES < size < file.stat().st_size:
        raise InputError(str(file), f"a header of {size:,} bytes, at most {HEADER_BYTES:,} are read", "get it again")


def _is_vocabulary(name: str) -> bool:
    return name in _VOCABULARIES or name.endswith(".index.json")


def _check_values(raw: bytes, path: Path) -> None:
    if len(raw) > JSON_VALUES and sum(raw.count(sign) for sign in (b",", b"[", b"{")) > JSON_VALUES:
        raise InputError(str(path), f"more than {JSON_VALUES:,} values", "get the file again")
