"""The scaling of rotary frequencies that a .gguf file states, in the terms of a transformers config.

A file states it with the keys `ARCHITECTURE.rope.scaling.*`, and with tensors of one divisor for each frequency.
They mean what they mean to llama.cpp: theta = position * frequency / divisor / factor, and cosine and sine are
multiplied by an attention factor.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from inheritune.arch.gguf_header import REMEDY, GgufHeader
from inheritune.errors import InputError

ROPE_KEYS = frozenset(
    f"rope.{name}"
    for name in (
        "freq_base", "freq_base_swa", "scale_linear", "scaling.type", "scaling.factor", "scaling.attn_factor",
        "scaling.original_context_length", "scaling.finetuned", "scaling.yarn_ext_factor", "scaling.yarn_attn_factor",
        "scaling.yarn_beta_fast", "scaling.yarn_beta_slow", "scaling.yarn_log_multiplier",
    )
)  # fmt: skip
"""The keys below the architecture that `scaled_rope` and its caller take into account."""

_LENGTHS = tuple(2**power for power in (13, 12, 14, 11, 15, 10, 16, 9, 17, 8, 18, 7, 6, 5, 4))
_USUAL = ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (2.0, 8.0), (1.0, 32.0))


def scaled_rope(header: GgufHeader, theta: float, dimensions: int) -> dict[str, Any]:
    """`rope_parameters` for heads of which `dimensions` are rotated, with frequencies of base `theta`.

    Raises InputError for a scaling that is not known, contradicts itself, or has another number of divisors.
    """
    kind = str(header.get("rope.scaling.type", "linear"))
    factor = header.number("rope.scaling.factor", header.number("rope.scale_linear", 0.0)) or 1.0
    if kind == "none":
        factor = 1.0
    elif kind not in ("linear", "yarn", "longrope"):
        raise header.refusal("rope.scaling.type", f"is {kind!r}, which is not known here")
    attention = header.number("rope.scaling.attn_factor", 1.0)
    length = int(header.number("rope.scaling.original_context_length", header.number("context_length", 0)))
    rope = {"rope_type": "default", "rope_theta": theta}
    tables = {name: np.array(values) for name, values in header.rope.items()}
    for name, values in tables.items():
        if len(values) != dimensions // 2:
            what = f"has {len(values)} numbers, but there are {dimensions // 2} rotary frequencies"
            raise InputError(f"{header.place}: {name}", what, REMEDY)
    extrapolation = header.number("rope.scaling.yarn_ext_factor", -1.0)
    if kind == "yarn" and extrapolation != 0:
        if tables:
            raise header.refusal("rope.scaling.type", f"is yarn, but there is {next(iter(tables))} as well")
        if extrapolation not in (1.0, -1.0):
            raise header.refusal("rope.scaling.yarn_ext_factor", f"is {extrapolation:g}, where 1 can be expressed")
        return rope | _yarn(header, factor, length)
    single = tables.get("rope_freqs.weight")
    if single is not None and len(tables) > 1:
        raise InputError(f"{header.place}: rope_freqs.weight", "there are long and short factors as well", REMEDY)
    if single is not None and attention == 1 and factor == 1:
        return rope | (_llama3(single, theta, dimensions, header) or _divided(single, single, 1.0, length))
    if tables:
        names = ("rope_factors_short.weight", "rope_factors_long.weight")
        short, long = (single, single) if single is not None else (tables.get(name) for name in names)
        if short is None or long is None:
            missing = names[0] if short is None else names[1]
            raise InputError(f"{header.place}: {missing}", "is missing, though its counterpart is there", REMEDY)
        return rope | _divided(short * factor, long * factor, attention, length)
    if kind == "longrope":
        raise header.refusal("rope.scaling.type", "is longrope, but there is no rope_factors_long.weight")
    if attention != 1:
        all_alike = np.full(dimensions // 2, factor)
        return rope | _divided(all_alike, all_alike, attention, length)
    return rope if factor == 1 else rope | {"rope_type": "linear", "factor": factor}


def as_divisors(rope: dict[str, Any], dimensions: int, length: int) -> dict[str, Any]:
    """Linear scaling as a divisor for each frequency, for configs that know no other form."""
    if rope["rope_type"] != "linear":
        return rope
    alike = np.full(dimensions // 2, rope["factor"])
    return {"rope_theta": rope["rope_theta"]} | _divided(alike, alike, 1.0, length)


def _divided(short: Any, long: Any, attention: float, length: int) -> dict[str, Any]:
    """A divisor for each frequency, within the first `length` positions and beyond them."""
    return {
        "rope_type": "longrope",
        "short_factor": [float(value) for value in short],
        "long_factor": [float(value) for value in long],
        "attention_factor": attention,
        "original_max_position_embeddings": length,
    }


def _yarn(header: GgufHeader, factor: float, length: int) -> dict[str, Any]:
    """YaRN. `yarn_attn_factor` is the whole attention factor, as llama.cpp's converter takes it from a config."""
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    part = header.number("rope.scaling.yarn_log_multiplier", 0.0)
    whole = usual / (0.1 * part * math.log(factor) + 1.0 if factor > 1 else 1.0)
    whole = header.number("rope.scaling.yarn_attn_factor", whole) * header.number("rope.scaling.attn_factor", 1.0)
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    for name in ("beta_fast", "beta_slow"):
        if (value := header.get(f"rope.scaling.yarn_{name}")) is not None:
            rope[name] = float(value)
    return rope if whole == usual else rope | {"attention_factor": whole}


def _llama3(divisors: Any, theta: float, dimensions: int, header: GgufHeader) -> dict[str, Any] | None:
    """The parameters of Llama 3's rule that give these divisors; None where none do.

    The rule leaves short waves as they are, divides long ones by `factor`, and goes from one to the other as a line in
    1 / divisor. Original length and the two bounds enter only as quotients, so one of them is free: it is chosen to be
    a usual one.
    """
    frequencies = theta ** (-np.arange(0, dimensions, 2) / dimensions) / (2 * math.pi)
    for factor, length, low, high in _candidates(divisors, frequencies, header):
        if not 0 < low < high:
            continue
        ramp = np.clip((frequencies * length - low) / (high - low), 0, 1)
        # converters compute in 32 bits, which is felt most where 1 / divisor is small
        if np.allclose(1 / (ramp + (1 - ramp) / factor), divisors, rtol=6e-7 * factor, atol=0):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": float(low), "high_freq_factor": float(high),
                "original_max_position_embeddings": length,
            }  # fmt: skip
    return None


def _candidates(divisors: Any, frequencies: Any, header: GgufHeader) -> Iterator[tuple[float, int, float, float]]:
    """Factor, original length, low and high bound: usual ones first, then those of a line through the divisors."""
    largest = float(divisors.max())
    rounded = float(round(largest, 3))
    factors = [rounded if math.isclose(rounded, largest, rel_tol=1e-6) else largest]
    factors += [2.0**power for power in range(1, 8) if 2.0**power > largest]
    context = int(header.number("context_length", 0))
    stated = int(header.number("rope.scaling.original_context_length", 0))
    for factor in factors:
        lengths = [length for length in (stated, _LENGTHS[0], int(context / factor), context, *_LENGTHS) if length > 0]
        for (low, high), length in product(_USUAL, lengths):
            yield factor, length, low, high
        between = (divisors > 1.001) & (divisors < factor * 0.999)
        if between.sum() < 2:
            continue
        ramp = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope, start = np.polyfit(frequencies[between], ramp, 1)
        if start < 0 < slope:
            lengths.insert(0, round(-slope / start))  # with a low bound of 1
        for digits, length in product((0, 1, 2, 6), lengths):
            yield factor, length, round(-start / slope * length, digits), round((1 - start) / slope * length, digits)
