"""A model with its hidden channels rotated, which computes the same: norm gains folded away, matrices turned.

Source: Ashkboos et al., SliceGPT, arXiv 2401.15024, with one rotation for the whole model, so that nothing but weights
changes.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    block_modules,
    build_empty,
    channel_dimensions,
    channel_norms,
    find_structure,
    gain_offset,
    hidden_of,
    is_root_mean_square,
    scale_gain,
    title,
)
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = (2, 32)  # of the forwards that show which matrices read a norm, and whether logits are the same
_NEAR = 1e-3  # the largest difference of logits, as a share of the largest one
_REMEDY = "select hidden channels instead"

Place = tuple[str, int]
"""A tensor, and one of its dimensions."""


def rotate(reference: "PreTrainedModel", rotation_DD: "torch.Tensor") -> "PreTrainedModel":
    """A copy of a float32 model whose hidden states are those of `reference`, multiplied by an orthogonal matrix.

    Channel j of the copy is the sum over i of `rotation_DD[j, i]` times channel i. Gains of norms are folded into the
    matrices that read them, but for their root mean square, which each channel keeps: so matrices stay as large as they
    were, and learn at the same rate. A head that was tied to the embeddings gets a matrix of its own.

    Raises InputError where a norm is no root mean square norm or is read by more than matrices (post-norms), where the
    embeddings are scaled, where heads are slices of the hidden size, and where the copy's logits are not the
    reference's on a few tokens.
    """
    import torch

    place, dimensions, norms = title(reference)[0], channel_dimensions(reference), channel_norms(reference)
    places = [(name, at) for name, ats in dimensions.items() if name.rpartition(".")[0] not in norms for at in ats]
    for name, norm in norms.items():
        offset = gain_offset(norm)
        if offset is None or not is_root_mean_square(norm, offset):
            raise InputError(place, f"{name} is no root mean square norm, so it cannot be rotated", _REMEDY)
    model, tokens_BT = _untied(reference), _tokens(reference)
    if not _embeds_as_stored(model, tokens_BT):
        raise InputError(place, "its embeddings are changed before the first block (scaled, for example)", _REMEDY)
    readers, tensors = _readers(model, list(norms), places, tokens_BT), model.state_dict()
    with torch.no_grad():
        for name, read_by in readers.items():
            if not read_by:
                raise InputError(place, f"no matrix alone reads {name} (a norm behind a matrix, for example)", _REMEDY)
            module: Any = model.get_submodule(name)
            offset = gain_offset(module) or 0.0
            gain_D = (module.weight + offset).double()
            usual = gain_D.square().mean().sqrt().clamp_min(1e-12)
            for tensor, at in read_by:
                _multiply(tensors[tensor], at, gain_D / usual)
            module.weight.fill_(float(usual) - offset)
        for tensor, at in places:
            _multiply(tensors[tensor], at, rotation_DD.double())
        with torch.autocast(reference.device.type, enabled=False):  # whose rounding would look like a difference
            expected, own = (one(input_ids=tokens_BT, use_cache=False).logits for one in (reference, model))
    apart = float((own - expected).abs().max() / expected.abs().max())
    if not apart < _NEAR:  # not a number is not near either
        what = f"rotated, its logits are not the same (off by {apart:.1%} of the largest one)"
        raise InputError(place, what, _REMEDY)
    return model


def keep_magnitudes(
    target: "PreTrainedModel", source: "PreTrainedModel", kept: Sequence[int], shares: Mapping[str, float]
) -> None:
    """Multiply the gains of a target's norms, so that the channels that are left are as large behind them as before.

    The target has the blocks `kept` of `source` and fewer hidden channels, so its norms take the mean square over
    fewer. `shares` has for each norm of the source the mean share of the kept channels in the squared norm of its
    input. So the mean square changes by this share, divided by the share of the channels that are kept.

    Raises InputError for a norm whose gain cannot be changed by its weight.
    """
    wide, narrow = (one.get_input_embeddings().weight.shape[-1] for one in (source, target))
    structure, places = find_structure(source), find_structure(target)
    for name, norm in channel_norms(target).items():
        block = places.split(name)
        origin = name if block is None else structure.name_in(kept[block[0]], block[1])
        scale_gain(norm, (shares[origin] * wide / narrow) ** 0.5, name)


def _untied(reference: "PreTrainedModel") -> "PreTrainedModel":
    """A copy in which no two tensors are one."""
    import torch

    config = copy.deepcopy(reference.config)
    config.tie_word_embeddings = False
    model = build_empty(config, torch.float32, reference.is_remote_code())
    sources = reference.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(sources[name])
    model.generation_config = copy.deepcopy(reference.generation_config)
    return model.to(reference.device).eval()


def _tokens(model: "PreTrainedModel") -> "torch.Tensor":
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    return torch.randint(0, vocabulary, _TOKENS, generator=torch.Generator().manual_seed(0)).to(model.device)


def _embeds_as_stored(model: "PreTrainedModel", tokens_BT: "torch.Tensor") -> bool:
    """Whether the input of the first block is the embeddings of the tokens."""
    import torch

    caught: list[torch.Tensor] = []
    hook = block_modules(model)[0].register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(hidden_of(args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=tokens_BT, use_cache=False)
    hook.remove()
    return torch.equal(caught[0], model.get_input_embeddings().weight[tokens_BT])


def _readers(
    model: "PreTrainedModel", norms: Sequence[str], places: Sequence[Place], tokens_BT: "torch.Tensor"
) -> dict[str, list[Place]]:
    """For each norm the dimensions of tensors that are multiplied with its output.

    Each norm's gain becomes 0 at a channel of its own. A tensor that reads it then has no gradient at that channel, and
    all other tensors have one there. Raises InputError for a tensor without any gradient.
    """
    import torch

    tensors: dict[str, Any] = dict(model.named_parameters())
    before = {name: tensors[f"{name}.weight"].detach().clone() for name in norms}
    if len(norms) > len(before[norms[0]]):
        raise InputError(title(model)[0], f"{len(norms)} norms over {len(before[norms[0]])} channels", _REMEDY)
    wanted = list(dict.fromkeys(name for name, _ in places))
    model.requires_grad_(True)
    with torch.no_grad():
        for channel, name in enumerate(norms):
            offset = gain_offset(model.get_submodule(name)) or 0.0
            tensors[f"{name}.weight"][channel] = -offset
    logits = model(input_ids=tokens_BT, use_cache=False).logits
    draw = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    slopes = torch.autograd.grad((logits * draw).sum(), [tensors[name] for name in wanted], allow_unused=True)
    model.requires_grad_(False)
    found: dict[str, list[Place]] = {name: [] for name in norms}
    with torch.no_grad():
        for name, weight in before.items():
            tensors[f"{name}.weight"].copy_(weight)
        for name, slope in zip(wanted, slopes, strict=True):
            if slope is None or not bool(slope.any()):
                raise InputError(title(model)[0], f"{name} has no effect on a few tokens", _REMEDY)
            for _, at in (place for place in places if place[0] == name):
                width = len(before[norms[0]])
                used_D = slope.movedim(at, 0).reshape(slope.shape[at], -1).any(1).view(-1, width).any(0)
                for channel, norm in enumerate(norms):
                    if not used_D[channel]:
                        found[norm].append((name, at))
    return found


def _multiply(tensor: "torch.Tensor", at: int, by: "torch.Tensor") -> None:
    """Multiply along a dimension, in place, by a number for each channel (D,) or a matrix (D, D)."""
    import torch

    channels = tensor.movedim(at, -1)
    parts = channels.reshape(*channels.shape[:-1], -1, len(by)).double()
    product = parts * by if by.dim() == 1 else torch.matmul(parts, by.T)
    channels.copy_(product.view(channels.shape).to(tensor.dtype))
