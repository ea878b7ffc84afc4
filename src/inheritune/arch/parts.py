"""The parts of a model that a training needs."""

from typing import TYPE_CHECKING, Any

from inheritune.arch.head import split_head
from inheritune.arch.structure import block_matrices, block_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def parts_of(model: "PreTrainedModel") -> dict[str, Any]:
    """The fields of `training.Job` that depend on the architecture: blocks, matrices, head, vocabulary."""
    return {
        "blocks": block_modules(model),
        "matrices": block_matrices(model),
        "head": split_head(model),
        "vocabulary": model.get_input_embeddings().weight.shape[0],
    }
