"""A model as it is given to be looked at: the place of one, or one that is loaded."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.loading import load_model, load_tokenizer
from inheritune.arch.padding import train_padding_rows
from inheritune.arch.precision import in_dtype
from inheritune.errors import InputError
from inheritune.recipe import Reference, model_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def ready(
    one: "str | Path | Reference | PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", device: str,
    dtype: str,
) -> "Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase | None]]":  # fmt: skip
    """A model on its device in its dtype and in evaluation mode, with its tokenizer; a loaded one is copied.

    `tokenizer` is taken in place of the one that comes with a place; `dtype` is as in `resolve_dtype`. Raises
    InputError as that, and for a place without model or tokenizer.
    """
    dtype = resolve_dtype(dtype, device)
    if isinstance(one, str | Path | Reference):
        origin = one if isinstance(one, Reference) else model_at(one)
        tokenizer = tokenizer or load_tokenizer(origin)
        model = load_model(origin)
    else:
        model = copy.deepcopy(one)
        train_padding_rows(model)
    yield in_dtype(model, dtype).to(device).eval(), tokenizer


def resolve_dtype(dtype: str, device: str) -> str:
    """float32 or bfloat16; `auto` is float32, on a GPU that has it bfloat16. Raises InputError for anything else."""
    import torch

    if dtype not in ("auto", "float32", "bfloat16"):
        raise InputError("--dtype", f"got {dtype!r}", "legal are auto, float32 and bfloat16")
    if dtype == "auto":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return dtype


def title(one: "str | Path | Reference | PreTrainedModel") -> tuple[str, str | None]:
    """The name for people, and the place of a model that is loaded from one."""
    place: Any = one.path if isinstance(one, Reference) else one
    if isinstance(place, str | Path):
        return Path(place).name or str(place), str(place)
    return getattr(place.config, "name_or_path", "") or str(place.config.model_type), None
