"""Prefixes against norm and head applied by hand: a second yardstick, for families whose norm and head are plain."""

import pytest
import torch
from tiny_families import DEPTH, FAMILIES, build, logits_of, logits_through, some_tokens
from transformers import PreTrainedModel

from inheritune.arch import find_structure
from inheritune.inheritance import inherit

_BUILT: dict[str, PreTrainedModel] = {}


@pytest.fixture(params=list(FAMILIES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reference(kind: str) -> PreTrainedModel:
    """The family's random model, built once; no test may change it."""
    if kind not in _BUILT:
        _BUILT[kind] = build(kind)
    return _BUILT[kind]


def logits_at(model: PreTrainedModel, kind: str, count: int, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Norm and head, applied by hand to the hidden state after `count` blocks."""
    family = FAMILIES[kind]
    seen: list[torch.Tensor] = []
    block = model.get_submodule(f"{family.blocks}.{count - 1}")
    hook = block.register_forward_hook(lambda _, __, got: seen.append(got if torch.is_tensor(got) else got[0]))
    logits_of(model, tokens_BT)
    hook.remove()
    with torch.no_grad():
        return family.after_head(model.get_output_embeddings()(model.get_submodule(family.norm)(seen[0])))


def test_hand_made_logits_are_the_model_s_own_at_full_depth(kind: str, reference: PreTrainedModel) -> None:
    """Guards the yardstick of this file, not the project."""
    tokens_BT = some_tokens()
    torch.testing.assert_close(
        logits_at(reference, kind, DEPTH, tokens_BT), logits_of(reference, tokens_BT), rtol=0, atol=1e-5
    )
    shallow = logits_at(reference, kind, DEPTH - 1, tokens_BT)
    assert (shallow - logits_of(reference, tokens_BT)).abs().max() > 0.01


@pytest.mark.parametrize("count", range(1, DEPTH + 1))
def test_prefix_gives_the_logits_of_norm_and_head_at_that_depth(
    kind: str, reference: PreTrainedModel, count: int
) -> None:
    tokens_BT = some_tokens()
    target = inherit(reference, count)
    assert target.dtype == torch.float32
    assert not target.training
    found = logits_of(target, tokens_BT)
    torch.testing.assert_close(found, logits_at(reference, kind, count, tokens_BT), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        found, logits_through(reference, FAMILIES[kind].blocks, list(range(count)), tokens_BT), rtol=0, atol=1e-5
    )


def test_no_memory_is_shared_with_the_reference(kind: str, reference: PreTrainedModel) -> None:
    mine = {tensor.data_ptr() for tensor in inherit(reference, 2).parameters()}
    assert not mine & {tensor.data_ptr() for tensor in reference.parameters()}


def test_blocks_are_found_where_the_architecture_has_them(kind: str, reference: PreTrainedModel) -> None:
    structure = find_structure(reference)
    assert (structure.blocks, structure.count) == (FAMILIES[kind].blocks, DEPTH)
