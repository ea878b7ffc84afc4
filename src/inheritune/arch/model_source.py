"""Models to look at: loaded from a place, or a copy of a loaded one."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import families
from inheritune.arch.loading import load_model, load_tokenizer
from inheritune.arch.padding import train_padding_rows
from inheritune.arch.precision import in_dtype
from inheritune.errors import InputError
from inheritune.recipe import Reference, model_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def ready(
    source: "str | Path | Reference | PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", device: str,
    dtype: str,
) -> "Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase | None]]":  # fmt: skip
    """A model in evaluation mode on `device` in `dtype`, with its tokenizer; a loaded model is copied.

    `tokenizer` replaces the one of a place; `dtype` is as in `resolve_dtype`. Raises InputError as that, and for a
    place without model or tokenizer.
    """
    dtype = resolve_dtype(dtype, device)
    if isinstance(source, str | Path | Reference):
        origin = source if isinstance(source, Reference) else model_at(source)
        tokenizer = tokenizer or load_tokenizer(origin)
        model = load_model(origin)
    else:
        model = copy.deepcopy(source)
        train_padding_rows(model)
    yield in_dtype(model, dtype).to(device).eval(), tokenizer


def resolve_dtype(dtype: str, device: str) -> str:
    """float32 or bfloat16; `auto` is bfloat16 on a GPU that supports it, else float32. Else raises InputError."""
    import torch

    if dtype not in ("auto", "float32", "bfloat16"):
        raise InputError("--dtype", f"got {dtype!r}", "legal are auto, float32 and bfloat16")
    if dtype == "auto":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return dtype


def title(source: "str | Path | Reference | PreTrainedModel") -> tuple[str, str | None]:
    """A model's name for people, and the place that it is loaded from, if any."""
    place: Any = source.path if isinstance(source, Reference) else source
    if isinstance(place, str | Path):
        return Path(place).name or str(place), str(place)
    return families.title(place.config), None
