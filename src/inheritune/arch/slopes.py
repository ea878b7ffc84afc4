"""Slopes of heads, by which attention falls with the distance (ALiBi): they follow from the number of heads."""

import math
from typing import TYPE_CHECKING

from inheritune.arch.families import title
from inheritune.arch.selection import Runs
from inheritune.arch.width import Path, axis_of
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_slopes(config: "PretrainedConfig", fields: dict[Path, int], kept: dict[Path, Runs]) -> None:
    """Raise InputError where the heads that `kept` has of the widths `fields` would get other slopes than they had."""
    values = config.to_dict()
    given = values.get("attn_config") or {}
    alibi = values.get("alibi") or given.get("alibi") or values.get("position_embedding_type") == "alibi"
    if config.model_type != "bloom" and not alibi:
        return
    path = next(path for path in fields if axis_of(fields, path) == "heads")
    heads = [head for start, stop in kept[path] for head in range(start, stop)]
    old = _slopes(config, fields[path])
    if old is not None and [old[head] for head in heads] == _slopes(config, len(heads)):
        return
    legal = []
    for count in range(1, fields[path] if old is not None else 1):
        new = _slopes(config, count)
        if old is not None and new is not None and set(new) <= set(old):
            legal.append(f"{count} ({', '.join(str(old.index(slope)) for slope in new)})")
    what = f"the heads {', '.join(map(str, heads))} would get other slopes, as these follow from the number of heads"
    remedy = f"legal numbers of heads: {'; '.join(legal)}" if legal else "keep all of them in this architecture"
    raise InputError(title(config), what, remedy)


def _slopes(config: "PretrainedConfig", heads: int) -> list[float] | None:
    """The slopes of an architecture's heads; None where their formula is not known."""
    if config.model_type not in ("bloom", "falcon", "mpt"):
        return None
    below = 2 ** math.floor(math.log2(heads))
    if below == heads:
        return [2.0 ** (-8 * (head + 1) / heads) for head in range(heads)]
    above = [2.0 ** (-8 * (head + 1) / (2 * below)) for head in range(2 * below)]
    if config.model_type == "mpt":
        return (above[1::2] + above[::2])[:heads]
    return ([2.0 ** (-8 * (head + 1) / below) for head in range(below)] + above[::2])[:heads]
