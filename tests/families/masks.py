"""References that compute without a part of their width: what a narrower target must be equal to.

Parts are switched off by hooks, found by the names and sizes of modules, with none of the project's code.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

_ATTENTION_OUT = re.compile(
    r"(attn|attention|self_att|mixer|temporal_block)(\.\d+)?\.(o_proj|out_proj|c_proj|dense|Wo|attention_out)(\.linear)?$"
    r"|attention\.output\.dense$"
)
_MLP_OUT = re.compile(
    r"(down_proj|fc2|dense_4h_to_h|fc_out|mlp\.c_proj|mlp\.Wo|\.w2|output_linear|w_out|layer_2|proj_down|ffn\.2|experts\.mlp\.w2)(\.linear)?$"
    r"|(?<!attention\.)output\.dense$"
)
_NOT_MLP = re.compile(r"attn|attention\.|norm|router|gate\.")
_QUERIES = re.compile(r"(attn|attention|mixer)\.(q_proj|project_q|qkv_proj)(\.linear)?$")
_NOT_ROUTER = re.compile(r"attn|norm|mamba")
_ROUTER = re.compile(r"(router|gate)$")

Keep = Callable[[int], list[int]]
"""Which of so many are kept."""


def output_width(model: PreTrainedModel, blocks: str) -> int:
    """The number of columns of the output matrices of attention: of all heads together."""
    outs = [module for name, module in model.named_modules() if name.startswith(blocks) and _ATTENTION_OUT.search(name)]
    widths = {module.weight.numel() // model.config.hidden_size for module in outs if hasattr(module, "weight")}
    return max(widths, default=0)


def _mask(keep: Keep, width: int) -> torch.Tensor:
    mask = torch.zeros(width)
    mask[keep(width)] = 1
    return mask


@contextmanager
def _hooks(handles: list[Any]) -> Iterator[None]:
    assert handles, "nothing to switch off was found: a mask that does nothing would prove nothing"
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _masked_input(mask_of: Callable[[int], torch.Tensor]) -> Any:
    def hook(_: nn.Module, given: Any) -> Any:
        return (given[0] * mask_of(given[0].shape[-1]), *given[1:])

    return hook


@contextmanager
def without_heads(
    model: PreTrainedModel, blocks: str, heads: int, keep: list[int], size: list[int] | None = None
) -> Iterator[None]:
    """The outputs of all heads but `keep` are zero; of those kept, all dimensions but `size` (None: all stay).

    Dimensions of queries are zero too, so that they add nothing to attention scores.
    """

    def mask(width: int) -> torch.Tensor:
        each = width // heads
        inside = torch.ones(each) if size is None else _mask(lambda _: size, each)
        return torch.cat([inside * (head in keep) for head in range(heads)])

    def queries(_: nn.Module, given: Any, got: torch.Tensor) -> torch.Tensor:
        each = _mask(lambda _: size or [], of_head).repeat(heads)
        return got * torch.cat([each, torch.ones(got.shape[-1] - len(each))])  # keys and values may come after them

    inside = {name: module for name, module in model.named_modules() if name.startswith(blocks + ".")}
    outs = [module for name, module in inside.items() if _ATTENTION_OUT.search(name)]
    of_head = output_width(model, blocks) // heads
    handles = [module.register_forward_pre_hook(_masked_input(mask)) for module in outs]
    if size is not None:
        reading = [module for name, module in inside.items() if _QUERIES.search(name)]
        assert reading, "no module makes queries"
        handles += [module.register_forward_hook(queries) for module in reading]
    with _hooks(handles):
        yield


@contextmanager
def without_neurons(model: PreTrainedModel, blocks: str, hidden: int, keep: Keep) -> Iterator[None]:
    """The activations of all hidden units of MLPs but those that `keep` gives for their number are zero.

    Of experts in one tensor the weights that read them are zero instead.
    """
    handles, saved = [], {}
    for name, module in model.named_modules():
        if _is_mlp_out(name, blocks) and not list(module.children()):
            handles.append(module.register_forward_pre_hook(_masked_input(lambda width: _mask(keep, width))))
    for name, tensor in model.named_parameters():
        if not _is_mlp_out(name, blocks) or (tensor.ndim < 3 and not name.endswith("experts.mlp.w2")):
            continue
        saved[name] = tensor.detach().clone()
        if tensor.ndim == 2:  # dbrx: the 16 units of one expert, then those of the next
            tensor.data.mul_(_mask(keep, 16).repeat(tensor.shape[0] // 16)[:, None])
        else:
            size = next(width for width in reversed(tensor.shape[-2:]) if width != hidden)
            mask = _mask(keep, size)
            tensor.data.mul_(mask if tensor.shape[-1] == size else mask[:, None])
    assert handles or saved, "nothing to switch off was found: a mask that does nothing would prove nothing"
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, before in saved.items():
            model.get_parameter(name).data.copy_(before)


def _is_mlp_out(name: str, blocks: str) -> bool:
    if not name.startswith(blocks + "."):
        return False
    inside = name[len(blocks) :].replace("norm_attn_norm", "")
    return _MLP_OUT.search(inside) is not None and _NOT_MLP.search(inside) is None


class _NeverChosen(TorchFunctionMode):
    """Router logits of the experts that are gone are minus infinity."""

    def __init__(self, experts: int, keep: list[int]) -> None:
        super().__init__()
        self.experts, self.keep, self.seen = experts, keep, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        got = func(*args, **(kwargs or {}))
        if func in (nn.functional.linear, torch.matmul) and self.experts <= got.shape[-1] <= self.experts + 2:
            self.seen += 1
            gone = [expert for expert in range(self.experts) if expert not in self.keep]
            got = got.index_fill(-1, torch.tensor(gone, dtype=torch.long), -torch.inf)
        return got


@contextmanager
def without_experts(model: PreTrainedModel, blocks: str, experts: int, keep: list[int]) -> Iterator[None]:
    """No token is sent to other experts than `keep`; what is learned to balance their use does not matter."""
    gone = [expert for expert in range(experts) if expert not in keep]
    mode, active, saved, handles = _NeverChosen(experts, keep), ExitStack(), {}, []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if (
            name.startswith(blocks + ".")
            and "bias" in name
            and not _NOT_ROUTER.search(name)
            and experts <= tensor.shape[-1] <= experts + 2
        ):
            saved[name] = (tensor, tensor.detach().clone())
            tensor.data[..., gone] = -torch.inf
    for name, module in model.named_modules():
        if name.startswith(blocks + ".") and _ROUTER.search(name) and not _NOT_ROUTER.search(name):
            handles.append(module.register_forward_pre_hook(lambda *_: active.enter_context(mode) and None))
            handles.append(module.register_forward_hook(lambda *_: active.close()))
    try:
        with _hooks(handles):
            yield
        assert mode.seen, "no router was found: a mask that does nothing would prove nothing"
    finally:
        for tensor, before in saved.values():
            tensor.data.copy_(before)


def projected(model: PreTrainedModel, hidden: int, keep: list[int]) -> PreTrainedModel:
    """The model with hidden states of the channels `keep` alone: the others are zero wherever something writes them.

    Norms over the channels are computed over those that are kept. No other width of the model may be `hidden`.
    """
    model, mask = copy.deepcopy(model), _mask(lambda _: keep, hidden)
    kept = torch.tensor(keep)
    for name, module in list(model.named_modules()):
        if "Norm" in type(module).__name__ and not list(module.children()):
            _narrow_norm(module, hidden, kept)
        elif name:
            module.register_forward_hook(lambda _, __, got: _times(got, mask))
            module.register_forward_pre_hook(lambda _, given: _times(given, mask))
    return model


def _times(got: Any, mask: torch.Tensor) -> Any:
    if torch.is_tensor(got):
        return got * mask if got.is_floating_point() and got.shape[-1:] == mask.shape else got
    if isinstance(got, tuple | list) and type(got) in (tuple, list):
        return type(got)(_times(each, mask) for each in got)
    if isinstance(got, dict):
        for key in got:
            got[key] = _times(got[key], mask)
    return got


def _narrow_norm(norm: nn.Module, hidden: int, kept: torch.Tensor) -> None:
    """Have a norm over `hidden` channels work on those kept alone."""
    small = copy.deepcopy(norm)
    for name, tensor in list(small.named_parameters(recurse=False)):
        if tensor.shape[-1:] == (hidden,):
            setattr(small, name, nn.Parameter(tensor.detach()[..., kept].clone()))
    for name, value in list(vars(small).items()):
        if value == hidden and isinstance(value, int):
            setattr(small, name, len(kept))
        if isinstance(value, tuple) and value == (hidden,):
            setattr(small, name, (len(kept),))

    def forward(states: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        streams, rest_of_it = divmod(states.shape[-1], hidden)
        if streams and not rest_of_it and not list(norm.parameters()) and streams > 1:
            wide = torch.cat([kept + hidden * stream for stream in range(streams)])
            return type(norm).forward(norm, states[..., wide])
        if states.shape[-1] != hidden:
            return type(norm).forward(norm, states, *rest, **named)
        rest = tuple(one[..., kept] if torch.is_tensor(one) and one.shape[-1:] == (hidden,) else one for one in rest)
        made = torch.zeros_like(states)
        made[..., kept] = small(states[..., kept], *rest, **named)
        return made

    norm.forward = forward
