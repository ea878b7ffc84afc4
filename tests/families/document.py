"""docs/architectures.md, from the checks of parity.py. Run by `make docs`; takes minutes."""

import contextlib
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from textwrap import shorten

import parity
import shapes
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from table import DECODERS
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import silence_libraries
from inheritune.arch.structure import decoder_config, find_structure
from inheritune.errors import InputError

_HEADER = """# Architectures

Made by `make docs` (`python tests/families/document.py`) with transformers {version}; `make check` fails where it is out
of date. Of the {total} model types that transformers maps to a causal language model, {supported} are supported
({prefixes} of them only in prefixes), {wrapping} more are composites whose text part is taken, and {refused} are refused.

Supported means that a tiny random model of the type, in whose blocks every kind occurs that the type has, passes in
float32: the logits are those of the reference without the other blocks (1e-5), for 1, half, all but one and all blocks,
and for three selections that are no prefix; all blocks are the reference bit for bit; what is saved loads in plain
transformers with nothing missing or left over, the same logits, ties and lists in the config; generation with a cache
gives what it gives without, wherever it does for the reference. A selection that is refused is refused in a line.

An architecture that is not in this table, such as one with code from the hub, is taken by the same rules: its blocks
are found in the model, every block is compared with its source, and a selection that is no prefix is refused where the
model's code uses a block's number for anything but its slot in the cache and its entry in the config.

Composites that are not in the table, such as LLaVA, are taken in the same way: the tensors below `language_model` are the
text part's, where it is of a type in the table and none of them is left over; tests/arch/test_composites.py compares Gemma 3,
Llama 4, Mistral 3, LLaVA and Qwen 3.5 with the whole models on text.

For every architecture: of a hybrid, blocks without any that has attention are refused, and so is a block without the
earlier one whose keys and values, or selected tokens, it uses.

## Narrower targets

Which parts of its width a type can lose, by indices (`inheritune.arch.Selection`), so that the target computes what the reference
computes without the rest: heads and neurons give zero, no token is sent to other experts, hidden channels are zero everywhere and norms
are computed over those that stay, dimensions of heads are zero in queries and values. Each is compared in float32 (1e-5) with such
a reference, then all of them at once without some blocks, saved, read from files, loaded and generating in plain transformers.

| part | types that can lose it | and that cannot |
| --- | --- | --- |
{axes}

"Heads with hidden" means that heads are slices of the hidden size, and go with their channels. A type without experts has none to lose.
Neurons include those of experts. The reasons are in the last column; a part that it does not name can go.

| model type | supported | selections | narrower |
| --- | --- | --- | --- |
"""


@lru_cache(maxsize=1)
def verdicts(kind: str) -> tuple[parity.Verdict, ...]:
    """The verdicts on every selection of a family, worked out once in a row."""
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:  # some architectures print
        return tuple(parity.check_all(kind, Path(folder)))


@lru_cache(maxsize=512)
def standing(kind: str) -> tuple[str, str]:
    """Whether a model type can be taken ('yes', 'as TYPE', 'no'), from its config alone, and why not."""
    try:
        config = CONFIG_MAPPING[kind](**({"is_decoder": True} if kind in DECODERS else {}))
    except (ValueError, StrictDataclassError):  # its default config contradicts itself
        return "no", "an assistant of another model, not a decoder by itself"
    try:
        found = decoder_config(config)
        if found is not config:
            return f"as {found.model_type}", "its text part alone"
        find_structure(parity.skeleton_of(kind))
    except InputError as error:
        return "no", error.problems[0].what
    return "yes", ""


def row(kind: str) -> str:
    """The table's line on a model type."""
    supported, why = standing(kind)
    narrower = ""
    if supported == "yes":
        why, narrower = _selections(verdicts(kind)), _narrower(kind)
        if kind in DECODERS:
            supported = "where is_decoder is true"
    return f"| {kind} | {supported} | {why} | {narrower} |"


def _narrower(kind: str) -> str:
    """Which axes a type can lose a part of, and the reasons why not of the others."""
    with contextlib.redirect_stdout(sys.stderr):
        found = shapes.verdicts(kind)
    faults = [f"{axis}: {fault}" for axis, verdict in found.items() for fault in verdict.faults]
    if faults:
        return f"FAULTY: {faults[0]}"
    taken = [axis for axis in shapes.AXES if axis in found and not found[axis].refused]
    if {"heads", "hidden"} <= set(taken) and shapes.has_slices(kind):
        taken = ["heads with hidden", *(axis for axis in taken if axis not in ("heads", "hidden"))]
    by_reason: dict[str, list[str]] = {}
    for axis, verdict in found.items():
        if verdict.refused:
            by_reason.setdefault(shorten(verdict.refused.replace("|", "/"), 110), []).append(axis)
    refused = [f"not {', '.join(axes)}: {reason}" for reason, axes in by_reason.items()]
    return "; ".join([", ".join(taken) or "nothing", *refused])


def _axes(narrower: list[str]) -> str:
    """How many types can lose a part of each axis, by the last column."""
    lines = []
    for axis in shapes.AXES:
        taken = sum(axis in text.partition("; ")[0].replace(" with ", ", ").split(", ") for text in narrower)
        refused = sum(
            any(axis in part.partition(":")[0].removeprefix("not ").split(", ") for part in text.split("; ")[1:])
            for text in narrower
        )
        lines.append(f"| {axis} | {taken} | {refused} |")
    return "\n".join(lines)


def _selections(found: tuple[parity.Verdict, ...]) -> str:
    faults = [fault for verdict in found for fault in verdict.faults]
    if faults:
        return f"FAULTY: {faults[0]}"
    refused = {str(verdict.kept): shorten(verdict.refused, 140) for verdict in found if verdict.refused}
    if not refused:
        return "all"
    if refused.keys() == {str(kept) for kept in parity.SELECTIONS if not parity.is_prefix(kept)}:
        return f"only prefixes: {next(iter(refused.values()))}"
    by_reason: dict[str, list[str]] = {}
    for kept, reason in refused.items():
        by_reason.setdefault(reason, []).append(kept)
    return "; ".join(f"not {', '.join(kept)}: {reason}" for reason, kept in by_reason.items())


def header(rows: Iterable[str]) -> str:
    """All that stands before the table's lines, with the numbers of `rows`."""
    columns = [[cell.strip() for cell in line.split("|")[1:5]] for line in rows]
    ways = [supported for _, supported, *_ in columns]
    return _HEADER.format(
        version=transformers.__version__,
        total=len(columns),
        supported=sum(way == "yes" or way.startswith("where") for way in ways),
        prefixes=sum(selections.startswith("only prefixes") for _, _, selections, _ in columns),
        axes=_axes([narrower for *_, narrower in columns if narrower]),
        wrapping=sum(way.startswith("as ") for way in ways),
        refused=ways.count("no"),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    silence_libraries()
    lines = [row(kind) for kind in CAUSAL]
    sys.stdout.write(header(lines) + "\n".join(lines) + "\n")
