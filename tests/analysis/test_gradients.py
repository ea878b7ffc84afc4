"""Gradient norms of queries and keys against autograd on projections that are known by name and layout."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forward import as_rows, logits_of, some_tokens
from tiny_families import build

from inheritune.analysis import find_projections, gradient_norms

ROWS = some_tokens(3, 13)
Parts = Callable[[Any, torch.Tensor], tuple[Any, Any]]


def gradients(model: Any, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of the mean loss of all tokens at once, with transformers' logits and torch's loss."""
    logits_BTV = model(input_ids=ROWS[:, :-1], use_cache=False).logits.double()
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ROWS[:, 1:].flatten())
    return list(torch.autograd.grad(loss, weights))


def in_thirds(columns: torch.Tensor) -> tuple[Any, Any]:
    """Of GPT-2: all queries, all keys, all values behind each other, as columns."""
    return columns[:, :32], columns[:, 32:64]


def by_head(rows: torch.Tensor) -> tuple[Any, Any]:
    """Of GPT-NeoX: each head's queries, keys and values behind each other, as rows."""
    heads = rows.view(4, 3, 8, 32)
    return heads[:, 0], heads[:, 1]


def grouped(rows: torch.Tensor) -> tuple[Any, Any]:
    """Of Phi-3: 4 heads' queries, 2 heads' keys, 2 heads' values behind each other, as rows."""
    return rows[:32], rows[32:48]


FUSED: dict[str, tuple[Callable[[Any], list[Any]], Callable[[torch.Tensor], tuple[Any, Any]]]] = {
    "gpt2": (lambda model: [block.attn.c_attn.weight for block in model.transformer.h], in_thirds),
    "gpt_neox": (lambda model: [block.attention.query_key_value.weight for block in model.gpt_neox.layers], by_head),
    "phi3": (lambda model: [block.self_attn.qkv_proj.weight for block in model.model.layers], grouped),
}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt_oss"])
def test_of_projections_of_their_own(kind: str) -> None:
    model = build(kind)
    found = gradient_norms(model, as_rows(ROWS))
    for name in ("query", "key"):
        weights = [getattr(block.self_attn, f"{name[0]}_proj").weight for block in model.model.layers]
        expected = [float(one.double().norm()) for one in gradients(model, weights)]
        assert [one[name] for one in found if one] == pytest.approx(expected, rel=1e-3)
        assert min(expected) > 0


@pytest.mark.parametrize("kind", FUSED)
def test_of_fused_projections(kind: str) -> None:
    model = build(kind)
    weights_of, part = FUSED[kind]
    found = gradient_norms(model, as_rows(ROWS))
    for block, gradient in enumerate(gradients(model, weights_of(model))):
        query, key = part(gradient.double())
        assert found[block] == pytest.approx({"query": float(query.norm()), "key": float(key.norm())}, rel=1e-3)


def test_features_are_told_apart() -> None:
    for one in (each[0] for each in find_projections(build("gpt2"))):
        assert one.query.nonzero().flatten().tolist() == list(range(32))
        assert one.key.nonzero().flatten().tolist() == list(range(32, 64))
    for query, key in find_projections(build("llama")):
        assert (int(query.query.sum()), int(query.key.sum())) == (32, 0)
        assert (int(key.query.sum()), int(key.key.sum())) == (0, 16)


def test_without_attention_there_are_none() -> None:
    assert gradient_norms(build("mamba"), as_rows(ROWS)) == [None] * 4


def test_the_model_stays_as_it_was() -> None:
    model = build("llama")
    for at, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(at % 2 == 0)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    logits = logits_of(model, ROWS)
    with torch.no_grad():  # gradients are taken all the same
        assert all(gradient_norms(model, as_rows(ROWS)))
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(logits_of(model, ROWS), logits)
