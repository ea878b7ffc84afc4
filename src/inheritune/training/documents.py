"""Attention inside documents: several documents in one sequence, of which a model sees each as if it stood alone."""

from typing import Any

import torch

from inheritune.errors import InputError

_LENGTHS = (5, 7)  # tokens of the two documents that a model is tried on


def document_positions(inputs_BT: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """The place of each token in its document, (B, T): from 0 where a sequence begins and behind an end-of-text."""
    places_T = torch.arange(inputs_BT.shape[1], device=inputs_BT.device)
    begins_BT = torch.zeros_like(inputs_BT)
    begins_BT[:, 1:] = torch.where(inputs_BT[:, :-1] == end_of_text, places_T[1:], 0)
    return places_T - begins_BT.cummax(dim=1).values


def inside_documents(model: torch.nn.Module, inputs_BT: torch.Tensor, positions_BT: torch.Tensor) -> dict[str, Any]:
    """What a model of transformers is called with, by name, so that attention stays inside documents.

    `positions_BT` are the places of tokens in their documents.

    Positions that begin anew are enough for most models, which make their masks of them. Others (Falcon, OPT, GPT-OSS)
    make their masks without looking at positions, but take what transformers itself would have made of them.
    """
    from transformers.masking_utils import create_masks_for_generate  # it imports the compiler, which takes seconds

    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    like_BT1 = torch.empty((*inputs_BT.shape, 1), dtype=weight.dtype, device=inputs_BT.device)  # for shape and type
    masks = create_masks_for_generate(model.config, like_BT1, None, None, position_ids=positions_BT)
    return {"input_ids": inputs_BT, "position_ids": positions_BT, "attention_mask": masks}


def check_documents_apart(model: torch.nn.Module, end_of_text: int, place: str) -> None:
    """Raise InputError unless a model gives the second of two packed documents the logits that it gives it alone.

    It is tried out, as a model may have no positions to be given, or layers that pass something on besides attention.
    """
    embeddings = model.get_input_embeddings().weight  # type: ignore[operator]
    first, second = _LENGTHS
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, embeddings.shape[0], (1, first + second), generator=generator).to(embeddings.device)
    tokens[tokens == end_of_text] = (end_of_text + 1) % embeddings.shape[0]
    tokens[0, first - 1] = end_of_text
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=tokens[:, first:], use_cache=False).logits.float()
            packed = model(
                **inside_documents(model, tokens, document_positions(tokens, end_of_text)), use_cache=False
            ).logits.float()
        near = max(1e-5, 4 * torch.finfo(embeddings.dtype).eps) * alone.abs().max()
        apart = bool((packed[:, first:] - alone).abs().max() <= near)
    except (TypeError, ValueError, RuntimeError):  # a model without positions to be given
        apart = False
    finally:
        model.train(training)
    if not apart:
        raise InputError(
            place,
            f"{type(model).__name__} does not keep documents apart that stand in one sequence",
            "set train.attention to sequence",
        )
