"""Growth from a trained target: everything of it stays, further blocks come in, silently if asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import build, logits_of, randomised, some_tokens
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from inheritune.arch import build_skeleton
from inheritune.errors import InputError
from inheritune.inheritance import check_function_preserving, inherit, insert_blocks, is_grown

# Blocks of the round before and of the one after.
GROWTHS = [([0, 1], [0, 1, 2]), ([2, 3], [1, 2, 3]), ([0, 3], [0, 1, 2, 3])]
# Parallel branches, fused experts, norms behind the sub-modules, biases, a state-space model.
KINDS = ["llama", "gpt2", "gpt_neox", "mixtral", "gemma2", "olmo2", "mamba", "phi"]


def trained_like(reference: PreTrainedModel, blocks: list[int]) -> PreTrainedModel:
    """A target whose weights have moved since it was inherited."""
    return randomised(inherit(reference, blocks), seed=9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), GROWTHS, ids=str)
def test_function_preserving_growth_leaves_the_logits_as_they_were(
    kind: str, before: list[int], after: list[int]
) -> None:
    reference = build(kind)
    trained = trained_like(reference, before)
    expected = logits_of(trained, some_tokens())
    target = inherit(reference, after)
    insert_blocks(target, trained, after, before, function_preserving=True)
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits_of(trained, some_tokens()), expected, rtol=0, atol=0)
    loss = target(some_tokens(), labels=some_tokens()).loss
    loss.backward()
    new = target.get_submodule(_list_of(target))[after.index(next(b for b in after if b not in before))]
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in new.parameters())


def _list_of(model: PreTrainedModel) -> str:
    from inheritune.arch import find_structure

    return find_structure(model).blocks


@pytest.mark.parametrize(("before", "after"), GROWTHS, ids=str)
def test_without_silence_the_new_blocks_are_the_reference_s(before: list[int], after: list[int]) -> None:
    reference = build("llama")
    trained = trained_like(reference, before)
    target = inherit(reference, after)
    insert_blocks(target, trained, after, before, function_preserving=False)
    for place, block in enumerate(after):
        origin = trained.model.layers[before.index(block)] if block in before else reference.model.layers[block]
        for name, tensor in origin.state_dict().items():
            assert torch.equal(target.model.layers[place].state_dict()[name], tensor)
    assert torch.equal(target.lm_head.weight, trained.lm_head.weight)
    assert torch.equal(target.model.norm.weight, trained.model.norm.weight)


def test_scores_scaled_by_the_place_are_kept_when_a_trained_block_moves_down() -> None:
    reference = build("gpt2", scale_attn_by_inverse_layer_idx=True)
    trained = trained_like(reference, [2, 3])
    expected = logits_of(trained, some_tokens())
    target = inherit(reference, [1, 2, 3])
    insert_blocks(target, trained, [1, 2, 3], [2, 3], function_preserving=True)
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)


def test_a_norm_after_the_addition_cannot_be_silent() -> None:
    fields = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 67}
    config = OPTConfig(**fields, word_embed_proj_dim=32, do_layer_norm_before=False, max_position_embeddings=64)
    with pytest.raises(InputError, match="a norm follows the addition"):
        check_function_preserving(build_skeleton(config))
    reference = randomised(OPTForCausalLM(config))
    trained = trained_like(reference, [0, 1])
    target = inherit(reference, [0, 1, 2])
    with pytest.raises(InputError, match="a norm follows the addition"):
        insert_blocks(target, trained, [0, 1, 2], [0, 1], function_preserving=True)
    insert_blocks(target, trained, [0, 1, 2], [0, 1], function_preserving=False)


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), unique=True), st.data())
def test_grown_means_all_of_before_in_order(after: list[int], data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(after) - 1)))) if after else []
    before = [after[place] for place in places]
    assert is_grown(before, after)
    if len(before) > 1:
        assert not is_grown(before[::-1], after)
    assert not is_grown([*before, 9], after)
    assert not is_grown(before, [*after, *after]) or not after
