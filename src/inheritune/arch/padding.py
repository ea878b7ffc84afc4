"""Rows of embeddings that an architecture keeps for padding: initialised and trained like all others here.

`torch.nn.Embedding(..., padding_idx=...)` gives one row no gradient, and transformers starts it at zero. Where the
padding token is a real one, such as the end-of-text token, a new model would never learn that row. Sequences here have
no padding, so no row has to stay as it is.
"""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def train_padding_rows(model: "PreTrainedModel") -> None:
    """Give the padding rows of a model's embeddings gradients. What the model computes stays the same.

    The config keeps its `pad_token_id`, except where transformers would zero a trained row whenever it loads the model
    (Youtu): there it becomes None, so that the row is not lost. The generation config keeps its own.
    """
    for _, module in list(_padded(model)):
        if model.config.pad_token_id is not None and _is_zeroed_on_loading(model, module):
            model.config.pad_token_id = None
        module.padding_idx = None


def draw_padding_rows(model: "PreTrainedModel") -> None:
    """Initialise the padding rows of a new model as its architecture initialises all others.

    Uses torch's global random state.
    """
    import torch

    for row, module in _padded(model):
        if module.weight.is_meta:
            continue
        drawn = _with_weight(module, torch.empty_like(module.weight[:1]))
        drawn.padding_idx = None
        drawn.reset_parameters()  # what the constructor does, for architectures that do no more
        model._init_weights(drawn)
        with torch.no_grad():
            module.weight[row] = drawn.weight[0]


def _padded(model: "PreTrainedModel") -> "Iterator[tuple[int, Any]]":
    """A model's embeddings with a padding row, each with the number of that row."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.padding_idx is not None:
            yield module.padding_idx, module


def _is_zeroed_on_loading(model: "PreTrainedModel", module: Any) -> bool:
    """Whether the architecture zeroes an embedding's padding row though its weight has been loaded."""
    import torch
    from transformers.initialization import guard_torch_init_functions

    loaded = _with_weight(module, torch.ones(2, module.weight.shape[1]))
    loaded.padding_idx = 0
    loaded.weight._is_hf_initialized = True  # transformers' mark of a weight that comes from a checkpoint
    with guard_torch_init_functions(), torch.random.fork_rng(devices=[]):
        model._init_weights(loaded)
    return not bool(loaded.weight[0].any()) and bool(loaded.weight[1].all())


def _with_weight(module: Any, weight: "torch.Tensor") -> Any:
    """A module like another one, with a weight of its own."""
    import torch

    twin = copy.copy(module)
    twin._parameters = {**module._parameters, "weight": torch.nn.Parameter(weight, requires_grad=False)}
    return twin
