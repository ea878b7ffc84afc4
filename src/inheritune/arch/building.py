"""Building models from configs: without memory, empty, with random weights, or from stored tensors."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from inheritune.arch.padding import draw_padding_rows, train_padding_rows
from inheritune.arch.weights import Placement
from inheritune.errors import BUILD_ERRORS, InputError, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def build_skeleton(
    config: "PretrainedConfig", trust_remote_code: bool = False, place: str | None = None
) -> "PreTrainedModel":
    """The model without memory for its weights (on the meta device), tied, in the config's dtype.

    Raises InputError, in the name of `place`, when transformers cannot build a model of the config.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    # there is nothing to draw, which takes a third of the time; code from elsewhere may use what these functions return
    undrawn = nullcontext() if trust_remote_code else no_init_weights()
    with _refusals(config, place), torch.device("meta"), undrawn:
        # building changes its config, for example the dtype
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    return model


@contextmanager
def _refusals(config: "PretrainedConfig", place: str | None = None) -> Iterator[None]:
    """Turn an architecture's refusal of a config into an InputError; lack of memory stays its own error."""
    try:
        yield
    except BUILD_ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if is_out_of_memory(error):
            raise
        place = place or config.name_or_path or config.model_type
        what = f"{config.model_type} cannot be built: transformers refuses this config ({reason})"
        raise InputError(place, what, "change the config's fields") from None


def build_random(
    config: "PretrainedConfig", seed: int, dtype: Any = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """A model (float32 unless told) with weights initialised as its architecture does it, drawn with `seed`.

    Rows that the architecture keeps for padding, and starts at zero, are drawn like the others.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with _refusals(config), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype or torch.float32, trust_remote_code=trust_remote_code
        )
        draw_padding_rows(model)
    train_padding_rows(model)
    return model


def build_empty(config: "PretrainedConfig", dtype: Any, trust_remote_code: bool = False) -> "PreTrainedModel":
    """A model with parameters that are allocated, tied and not initialised; all of them must be filled."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with _refusals(config), no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    train_padding_rows(model)
    return model


def build_hollow(kind: "type[PreTrainedModel]", config: "PretrainedConfig", dtype: "torch.dtype") -> "PreTrainedModel":
    """A model whose parameters have no memory (on the meta device), tied; its buffers are there, on the CPU."""
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from transformers.initialization import no_init_weights

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.data.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(without_memory)  # type: ignore[arg-type]
    try:
        with no_init_weights():
            built: PreTrainedModel = kind._from_config(copy.deepcopy(config), dtype=dtype)
    finally:
        hook.remove()
    built.tie_weights()
    return built


def build_from(
    skeleton: "PreTrainedModel", placement: Placement, dtype: Any, further: "Mapping[str, torch.Tensor] | None" = None
) -> "PreTrainedModel":
    """The model of `skeleton`, filled with stored tensors by transformers' own loader, which converts their names.

    `further` are tensors by the model's own names, used without a copy. The rest is initialised as the architecture
    does it.
    """
    import torch

    with placement.opened() as tensors, _refusals(skeleton.config), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            state_dict=tensors | dict(further or {}),
            dtype=dtype,
            local_files_only=True,
        )
    train_padding_rows(model)
    return model
