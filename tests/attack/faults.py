"""What can be wrong with a file: the kinds of damage, each a function of the path and a random generator."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fault = Callable[[Path, random.Random], object]


def put(content: bytes) -> Fault:
    """The file with other content."""
    return lambda path, _: path.write_bytes(content)


def changed(change: Callable[[bytes, random.Random], bytes]) -> Fault:
    """The file with its content changed."""
    return lambda path, draw: path.write_bytes(change(path.read_bytes(), draw))


def in_its_place(make: Callable[[Path], object]) -> Fault:
    """Something else where the file was."""

    def replace(path: Path, _: random.Random) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return replace


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Some bytes are others."""
    found = bytearray(content)
    for _ in range(1 + len(found) // 200):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def cut_anywhere(content: bytes, draw: random.Random) -> bytes:
    """Cut short at a drawn place; no file has its last byte only cut off, which may be a newline."""
    return content[: draw.randrange(1, max(2, len(content) - 2))]


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


# What no file of any kind that must be read may be.
PLACES: dict[str, Fault] = {
    "missing": in_its_place(lambda path: None),
    "a folder": in_its_place(Path.mkdir),
    "a pipe": in_its_place(os.mkfifo),
    "a link to nothing": in_its_place(lambda path: path.symlink_to("nowhere")),
    "a link to itself": in_its_place(lambda path: path.symlink_to(path.name)),
    "a link to /dev/zero": in_its_place(lambda path: path.symlink_to("/dev/zero")),
    "a link to /proc/self/mem": in_its_place(lambda path: path.symlink_to("/proc/self/mem")),
    "a terabyte": in_its_place(_huge),
}

# What is no JSON, or JSON that is no object.
NO_JSON: dict[str, Fault] = {
    "empty": put(b""),
    "blank": put(b" \n\n"),
    "cut short": changed(cut_anywhere),
    "a list": put(b"[]"),
    "a number": put(b"5"),
    "a text": put(b'"text"'),
    "null": put(b"null"),
    "10,000 levels": put(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "10,000 lists": put(b"[" * 10_000 + b"]" * 10_000),
    "not UTF-8": changed(lambda content, _: content.replace(b'"', b'"\xff', 1)),
    "binary": changed(lambda content, draw: draw.randbytes(len(content))),
    "zeros": changed(lambda content, _: bytes(len(content))),
    "two values": changed(lambda content, _: content + content),
    "a long number": put(b'{"a": ' + b"9" * 10_000 + b"}"),
    "HTML": put(b"<!doctype html><title>404: Not Found</title>"),
    "a pointer of Git LFS": put(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
}

# JSON that a program may take or refuse.
ODD_JSON: dict[str, Fault] = {
    "no keys": put(b"{}"),
    "a byte order mark": changed(lambda content, _: b"\xef\xbb\xbf" + content),
    "UTF-16": changed(lambda content, _: content.decode().encode("utf-16")),
    "keys twice": changed(lambda content, _: content.rstrip()[:-1] + b"," + content.lstrip()[1:]),
    "NaN": changed(lambda content, _: content.rstrip()[:-1] + b', "attention_dropout": NaN, "x": Infinity}'),
    "flipped bits": changed(flipped),
    "one value exchanged": lambda path, draw: exchange(path, draw),
    "one key left out": lambda path, draw: exchange(path, draw, remove=True),
}

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf"), "", "x", "0", "-1",
    "\u202e\x00", "nan", [], [1], [None], ["x"], {}, {"a": 1}, [[]], "x" * 5000,
]  # fmt: skip


def exchange(path: Path, draw: random.Random, remove: bool = False) -> None:
    """One value, anywhere in the tree of a JSON file, is another one, or gone."""
    tree = json.loads(path.read_bytes())
    places: list[tuple[Any, Any]] = []
    left = [tree]
    while left:
        node = left.pop()
        pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
        places += [(node, key) for key, _ in pairs][:40]
        left += [value for _, value in pairs if isinstance(value, dict | list)][:40]
    node, key = draw.choice(places)
    if remove:
        del node[key]
    else:
        node[key] = draw.choice(VALUES)
    path.write_text(json.dumps(tree), encoding="utf-8")


BYTES: dict[str, Fault] = {
    "empty": put(b""),
    "cut short": changed(cut_anywhere),
    "binary": changed(lambda content, draw: draw.randbytes(len(content))),
    "zeros": changed(lambda content, _: bytes(len(content))),
    "HTML": put(b"<!doctype html><title>404: Not Found</title>"),
    "a pointer of Git LFS": put(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
}


def header(change: Callable[[dict[str, Any]], object]) -> Fault:
    """A safetensors file whose header is changed; its data stay."""

    def rewrite(content: bytes, _: random.Random) -> bytes:
        size = int.from_bytes(content[:8], "little")
        tree = json.loads(content[8 : 8 + size])
        raw = change(tree)
        text = raw if isinstance(raw, bytes) else json.dumps(tree).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return changed(rewrite)


def length(value: int) -> Fault:
    """A safetensors file that states another length of its header."""
    return changed(lambda content, _: struct.pack("<Q", value) + content[8:])


def _of(key: str, value: Any) -> Fault:
    """One tensor's entry with another value."""

    def change(tree: dict[str, Any]) -> None:
        next(entry for name, entry in tree.items() if name.endswith("up_proj.weight"))[key] = value

    return header(change)


def _renamed(tree: dict[str, Any]) -> None:
    name = next(name for name in tree if name.endswith("up_proj.weight"))
    tree["model.strange"] = tree.pop(name)


SAFETENSORS: dict[str, Fault] = {
    **{f"header of {value} bytes": length(value) for value in (0, 1, 7, 2**20, 10**8 + 1, 2**40, 2**63, 2**64 - 1)},
    **{f"offsets {value}": _of("data_offsets", value) for value in (
        [0, 2**62], [-4, 0], [10, 2], [0, 0], [0], [], "0", None, [0.5, 4], [2**64, 2**65], {"a": 1}, [1, 1537])},
    **{f"dtype {value}": _of("dtype", value) for value in ("F99", "I64", "BOOL", "F8_E4M3", "f32", "", None, 4, ["F32"])},
    **{f"shape {value}": _of("shape", value) for value in (
        [], [16], [24, 8], [2**40, 2**40], [-24, -16], [384], ["24", 16], "24", None, [24.0, 16], [0, 16], [1] * 100)},
    "offsets that overlap": header(lambda tree: [entry.update(data_offsets=[0, 64]) for name, entry in tree.items() if name != "__metadata__"]),
    "a tensor of another name": header(_renamed),
    "a tensor less": header(lambda tree: tree.pop(next(name for name in tree if name.endswith("up_proj.weight")))),
    "no tensors": header(lambda tree: b"{}"),
    "a header that is a list": header(lambda tree: b"[]"),
    "a header that is no JSON": header(lambda tree: b'{"a": '),
    "a header of spaces": header(lambda tree: b" " * 1000),
    "a header of 100,000 levels": header(lambda tree: b'{"a":' * 100_000),
    "a tensor twice": header(lambda tree: json.dumps(tree).encode()[:-1] + b"," + json.dumps(tree).encode()[1:]),
    "an entry that is a number": header(lambda tree: tree.update({"model.norm.weight": 5})),
    "an entry without keys": header(lambda tree: tree.update({"model.norm.weight": {}})),
    "metadata that are a list": header(lambda tree: tree.update(__metadata__=[])),
    "metadata of another program": header(lambda tree: tree.update(__metadata__={"format": "mlx"})),
    "a name with a NUL": header(lambda tree: tree.update({"a\0\x1b[31m": tree.pop("model.norm.weight")})),
    "data cut short": changed(lambda content, _: content[:-5]),
    "data with more behind": changed(lambda content, _: content + b"more"),
}  # fmt: skip


def gguf_at(place: int, kind: str, value: int) -> Fault:
    """A .gguf file with another number at a place."""

    def change(content: bytes, _: random.Random) -> bytes:
        raw = struct.pack(kind, value)
        return content[:place] + raw + content[place + len(raw) :]

    return changed(change)


def gguf_entry(key: str, change: Callable[[bytes], bytes]) -> Fault:
    """A .gguf file in which what stands behind a key is changed: four bytes of its type, then its value."""

    def rewrite(content: bytes, _: random.Random) -> bytes:
        at = content.index(key.encode()) + len(key)
        return content[:at] + change(content[at:])

    return changed(rewrite)


def _typed(kind: int) -> Callable[[bytes], bytes]:
    return lambda rest: struct.pack("<I", kind) + rest[4:]


def _valued(value: int) -> Callable[[bytes], bytes]:
    return lambda rest: rest[:4] + struct.pack("<I", value) + rest[8:]


_NUMBERS = ("embedding_length", "block_count", "attention.head_count", "attention.head_count_kv", "context_length",
            "feed_forward_length", "vocab_size")  # fmt: skip
GGUF: dict[str, Fault] = {
    "magic": gguf_at(0, "<I", 0),
    "the other byte order": changed(lambda content, _: content[:4] + content[4:8][::-1] + content[8:]),
    **{f"version {value}": gguf_at(4, "<I", value) for value in (0, 1, 9, 2**32 - 1)},
    **{f"{value} tensors": gguf_at(8, "<Q", value) for value in (0, 1, 1000, 2**31, 2**63, 2**64 - 1)},
    **{f"{value} entries": gguf_at(16, "<Q", value) for value in (0, 1, 9999, 2**31, 2**63, 2**64 - 1)},
    **{f"a first key of {value} bytes": gguf_at(24, "<Q", value) for value in (0, 10**6, 2**40, 2**64 - 1)},
    **{f"{key} {value}": gguf_entry(f"llama.{key}", _valued(value))
       for key in _NUMBERS for value in (0, 1, 3, 999, 2**31 - 1, 2**32 - 1)},
    **{f"{key} of type {kind}": gguf_entry(f"llama.{key}", _typed(kind))
       for key in _NUMBERS[:3] for kind in (0, 6, 7, 8, 9, 12, 13, 2**32 - 1)},
    **{f"{key} missing": changed(lambda content, _, key=key: content.replace(f"llama.{key}".encode(), f"llama.{'x' * len(key)}".encode(), 1))
       for key in _NUMBERS},
    **{f"tokens of type {kind}": gguf_entry("tokenizer.ggml.tokens", lambda rest, kind=kind: rest[:4] + struct.pack("<I", kind) + rest[8:])
       for kind in (0, 4, 7, 9, 99)},
    **{f"{count} tokens": gguf_entry("tokenizer.ggml.tokens", lambda rest, count=count: rest[:8] + struct.pack("<Q", count) + rest[16:])
       for count in (0, 1, 5000, 2**40, 2**64 - 1)},
    **{f"a token of {count} bytes": gguf_entry("tokenizer.ggml.tokens", lambda rest, count=count: rest[:16] + struct.pack("<Q", count) + rest[24:])
       for count in (10**5, 2**40, 2**64 - 1)},
    **{f"{name} of a tensor {value}": gguf_entry("blk.0.ffn_up.weight", lambda rest, at=at, kind=kind, value=value: rest[:at] + struct.pack(kind, value) + rest[at + struct.calcsize(kind):])
       for name, at, kind in (("dimensions", 0, "<I"), ("width", 4, "<Q"), ("type", 20, "<I"), ("offset", 24, "<Q"))
       for value in (0, 1, 7, 99, 2**20, 2**32 - 1)},
    "an unknown architecture": changed(lambda content, _: content.replace(b"llama", b"lamal")),
    "an unknown tokenizer": changed(lambda content, _: content.replace(b"gpt2", b"gtp3")),
    "a name that is not UTF-8": changed(lambda content, _: content.replace(b"blk.0.ffn_up", b"blk.0.ffn_\xff\xff")),
    "flipped bits": changed(lambda content, draw: flipped(content[:3000], draw) + content[3000:]),
    "flipped bits in the weights": changed(lambda content, draw: content[:-4000] + flipped(content[-4000:], draw)),
}  # fmt: skip
