"""Fewer hidden channels: a rotation to principal components where the architecture allows one, else a selection."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from inheritune.analysis.units.statistics import collect_statistics
from inheritune.data import Rows
from inheritune.errors import InputError
from inheritune.inheritance import rotate
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rotate_to_components(
    reference: "PreTrainedModel", rows: Rows, *, micro_batch: int = 8
) -> "tuple[PreTrainedModel, bool]":
    """A copy of the model whose hidden channels are the principal components of its hidden states on `rows`.

    The largest is the first, so a narrower model takes the first channels. Each token's state counts as a direction,
    whatever its length. A tied head gets a matrix of its own, which the log says. Where the architecture cannot be
    rotated, the log gives the reason, and the result is the reference itself and False.
    """
    try:
        seen = collect_statistics(reference, rows, ["stream"], axes=["hidden"], micro_batch=micro_batch)
        model = rotate(reference, torch.linalg.eigh(seen.products_DD)[1].flip(1).T)
    except InputError as error:
        logger.info(f"hidden channels are selected, as they cannot be rotated: {error}")
        return reference, False
    if reference.config.tie_word_embeddings:
        logger.info("the hidden channels are rotated, so the head is not tied to the embeddings any more")
    return model, True


def shares_of_norms(
    reference: "PreTrainedModel", rows: Rows, hidden: tuple[int, ...], *, micro_batch: int = 8
) -> Mapping[str, float]:
    """For each norm over hidden channels, the mean share that these channels have in the squared norm of its input."""
    norms = collect_statistics(reference, rows, ["stream"], axes=["hidden"], micro_batch=micro_batch).norms
    return {name: float(shares_D[list(hidden)].sum()) for name, shares_D in norms.items()}
