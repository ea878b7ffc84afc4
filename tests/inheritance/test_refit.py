"""The closed-form refit of kept blocks, against numpy's lstsq on states that are collected by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from forward import as_inputs, randomised, some_tokens
from tiny import tiny_config
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from inheritune.arch import Selection, block_modules, build_skeleton, find_output_matrices, find_structure
from inheritune.errors import InputError, RunError
from inheritune.inheritance import (
    derive,
    derive_refitted,
    draft_target,
    inherit,
    inherit_settings,
    refit,
    refitted_matrices,
)
from inheritune.inheritance.target import TargetSpec
from inheritune.recipe import FIRST_HALF

TOKENS_BT = some_tokens(24, 16)


def reference_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32), scale=0.05)


def matrices_of(reference: PreTrainedModel, kept: list[int], **more: Any) -> list[list[str]]:
    return refitted_matrices(draft_target(reference, TargetSpec(tuple(kept), **more)))


def refitted(reference: PreTrainedModel, kept: list[int], ridge: float) -> tuple[PreTrainedModel, list[list[str]]]:
    target, names = inherit(reference, kept), matrices_of(reference, kept)
    refit(target, reference, kept, names, as_inputs(TOKENS_BT), ridge=ridge, micro_batch=5)
    return target, names


def seen(model: PreTrainedModel, block: int, module: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input and the output (N, D) of a block, and the input (N, K) of a module in it, by hooks on a whole forward."""
    caught: dict[str, torch.Tensor] = {}
    layer = block_modules(model)[block]

    def first(value: Any) -> torch.Tensor:
        return value if torch.is_tensor(value) else value[0]

    hooks = [
        layer.register_forward_pre_hook(lambda _, args: caught.update(before=args[0])),
        layer.register_forward_hook(lambda _, __, output: caught.update(after=first(output))),
        layer.get_submodule(module).register_forward_pre_hook(lambda _, args: caught.update(inner=args[0])),
    ]
    with torch.no_grad():
        model(input_ids=TOKENS_BT, use_cache=False)
    for hook in hooks:
        hook.remove()
    before, after, inner = (
        caught[key].reshape(TOKENS_BT.numel(), -1).double().numpy() for key in ("before", "after", "inner")
    )
    return before, after, inner


def stored(module: torch.nn.Module) -> np.ndarray:
    """A module's weight as (K, D), with its bias as the last row."""
    weight: Any = module.weight.detach().double()
    weight = weight if isinstance(module, Conv1D) else weight.T
    return np.vstack([weight, module.bias.detach().double()[None]]) if module.bias is not None else weight.numpy()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_the_mlp_has_the_weights_that_lstsq_gives_on_the_targets_own_states(kind: str) -> None:
    """Of the second kept block, whose input comes from a refitted block: goals, ridge, bias and weights of tokens."""
    reference, kept, ridge = reference_of(kind), [0, 2, 5], 0.1
    target, names = refitted(reference, kept, ridge)
    place, mlp = 1, names[1][-1]
    goal = seen(reference, 4, mlp)[1]  # the output of the block before the next kept one
    _, output, inputs = seen(target, place, mlp)
    module = block_modules(target)[place].get_submodule(mlp)
    root = 1 / np.sqrt(np.linalg.norm(goal, axis=1, keepdims=True))
    fitted, before = stored(module), stored(block_modules(reference)[kept[place]].get_submodule(mlp))
    if module.bias is not None:
        inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    rest = output - inputs @ fitted  # what the block adds beside the matrix
    held = np.sqrt(ridge * ((inputs * root) ** 2).sum(0).mean()) * np.eye(len(before))  # a row for each weight
    expected = np.linalg.lstsq(np.vstack([inputs * root, held]), np.vstack([(goal - rest) * root, held @ before]))[0]
    np.testing.assert_allclose(fitted, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(fitted - before).max() > 0.05 * np.abs(before).max()


def test_attention_is_fitted_together_with_the_mlp_that_follows() -> None:
    """Of the first kept block with a gap: both matrices by lstsq, of which attention's is taken."""
    reference, kept, ridge = reference_of("llama"), [0, 3], 0.1
    target, names = refitted(reference, kept, ridge)
    assert names[0] == ["self_attn.o_proj", "mlp.down_proj"]
    goal = seen(reference, 2, "mlp.down_proj")[1]
    _, output, hidden = seen(reference, 0, "mlp.down_proj")
    inputs = np.hstack([seen(reference, 0, "self_attn.o_proj")[2], hidden])
    root = 1 / np.sqrt(np.linalg.norm(goal, axis=1, keepdims=True))
    width = inputs.shape[1] - hidden.shape[1]
    squares = ((inputs * root) ** 2).sum(0)
    held = np.diag(
        np.sqrt(ridge * np.repeat([squares[:width].mean(), squares[width:].mean()], [width, hidden.shape[1]]))
    )
    change = np.linalg.lstsq(
        np.vstack([inputs * root, held]), np.vstack([(goal - output) * root, np.zeros((len(held), goal.shape[1]))])
    )[0]
    before, fitted = (stored(block_modules(model)[0].self_attn.o_proj) for model in (reference, target))
    np.testing.assert_allclose(fitted - before, change[:width], atol=2e-4 * np.abs(change).max())


def test_a_refit_brings_the_target_nearer_to_the_reference() -> None:
    reference, kept = reference_of("llama"), [0, 2, 5]
    fitted, _ = refitted(reference, kept, 1e-3)
    goal = seen(reference, 5, "mlp.down_proj")[1]
    errors = [np.linalg.norm(seen(model, 2, "mlp.down_proj")[1] - goal) for model in (inherit(reference, kept), fitted)]
    assert errors[1] < 0.8 * errors[0]


def test_with_a_huge_ridge_nothing_changes() -> None:
    reference = reference_of("gpt2")
    target, names = refitted(reference, [1, 2, 5], 1e12)
    assert all(names)
    for name, tensor in inherit(reference, [1, 2, 5]).state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_blocks_before_the_first_dropped_one_keep_their_weights() -> None:
    reference = reference_of("llama")
    whole, names = refitted(reference, [0, 1, 2, 3, 4, 5], 0.01)
    assert names == [[]] * 6
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in reference.state_dict().items())
    target, names = refitted(reference, [0, 1, 4, 5], 0.01)
    assert [bool(one) for one in names] == [False, True, True, True]
    assert torch.equal(target.model.layers[0].mlp.down_proj.weight, reference.model.layers[0].mlp.down_proj.weight)
    assert torch.equal(target.model.layers[1].mlp.up_proj.weight, reference.model.layers[1].mlp.up_proj.weight)
    assert not torch.equal(target.model.layers[3].mlp.down_proj.weight, reference.model.layers[5].mlp.down_proj.weight)


def test_a_state_that_is_not_finite_ends_in_a_line() -> None:
    reference = reference_of("llama")
    with torch.no_grad():
        reference.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(RunError, match=r"block 0, self_attn.o_proj: the fitted weights are not finite"):
        target = inherit(reference_of("llama"), [0, 2])
        refit(target, reference, [0, 2], matrices_of(reference, [0, 2]), as_inputs(TOKENS_BT))


FAMILIES = {
    "llama": ["self_attn.o_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_proj", "mlp.c_proj"],  # Conv1D
    "gpt_neox": ["attention.dense", "mlp.dense_4h_to_h"],  # attention and MLP in parallel
    "falcon": ["self_attention.dense", "mlp.dense_4h_to_h"],
    "bloom": ["self_attention.dense", "mlp.dense_4h_to_h"],
    "opt": ["self_attn.out_proj", "fc2"],  # the MLP's matrices are the block's own
    "qwen3": ["self_attn.o_proj", "mlp.down_proj"],
    "phi": ["self_attn.dense", "mlp.fc2"],
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_the_named_modules_give_is_added_to_the_hidden_states_as_it_is(kind: str) -> None:
    reference = reference_of(kind)
    assert matrices_of(reference, [0, 2])[1] == FAMILIES[kind]
    before = seen(reference, 2, FAMILIES[kind][-1])[1]
    shift_D = torch.linspace(-1, 1, before.shape[1])
    module = block_modules(reference)[2].get_submodule(FAMILIES[kind][-1])
    hook = module.register_forward_hook(lambda _, __, output: output + shift_D)
    after = seen(reference, 2, FAMILIES[kind][-1])[1]
    hook.remove()
    np.testing.assert_allclose(after - before, np.broadcast_to(shift_D, before.shape), atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma2", "olmo2", "qwen2_moe", "mixtral", "mamba", "roberta"])
def test_an_architecture_whose_output_cannot_be_fitted_is_refused(kind: str) -> None:
    skeleton = build_skeleton(tiny_config(kind))
    with pytest.raises(InputError, match=r"block 2: no single matrix of its MLP .* inherit without the refit"):
        find_output_matrices(skeleton, find_structure(skeleton), 2)


def test_a_factor_behind_the_matrix_is_refused() -> None:
    skeleton = build_skeleton(tiny_config("granite", residual_multiplier=0.22))
    with pytest.raises(InputError, match="a norm or a factor follows it"):
        find_output_matrices(skeleton, find_structure(skeleton), 2)


@pytest.mark.parametrize("more", [{"submodules": ("attention",)}, {"submodules": "none"}])
def test_new_weights_are_not_refitted(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="blocks with all their weights"):
        matrices_of(reference_of("llama"), [0, 2], **more)


def test_repeated_blocks_are_refused() -> None:
    with pytest.raises(InputError, match=r"blocks \[0, 1, 0, 1\] repeat"):
        matrices_of(reference_of("llama"), [0, 1, 0, 1])


NARROW = {
    "neurons": Selection(neurons=((0, 5, 9, *range(20, 48)),) * 2),
    "heads": Selection(heads=((0, 2), (1, 3))),
    "hidden": Selection(hidden=tuple(range(0, 32, 2))),
    "all": Selection(heads=(0, 1), neurons=tuple(range(1, 40)), hidden=tuple(range(28))),
}


@pytest.mark.parametrize("axis", NARROW)
def test_narrower_blocks_are_fitted_to_the_references_states_at_the_kept_channels(axis: str) -> None:
    """Against lstsq on the target's own states, in the second block, all blocks being kept."""
    reference, width, ridge, kept = two_blocks(), NARROW[axis], 0.1, [0, 1]
    spec = TargetSpec((0, 1), width=width)
    target, before = derive(reference, spec)[0], derive(reference, spec)[0]
    names = refitted_matrices(draft_target(reference, spec))
    assert names == [["self_attn.o_proj", "mlp.down_proj"]] * 2
    refit(target, reference, kept, names, as_inputs(TOKENS_BT), hidden=width.hidden, ridge=ridge, micro_batch=5)
    goal = seen(reference, 1, "mlp.down_proj")[1][:, list(width.hidden or range(32))]
    _, output, inputs = seen(target, 1, "mlp.down_proj")
    fitted, present = (stored(block_modules(model)[1].mlp.down_proj) for model in (target, before))
    rest, root = output - inputs @ fitted, 1 / np.sqrt(np.linalg.norm(goal, axis=1, keepdims=True))
    held = np.sqrt(ridge * ((inputs * root) ** 2).sum(0).mean()) * np.eye(len(present))
    expected = np.linalg.lstsq(np.vstack([inputs * root, held]), np.vstack([(goal - rest) * root, held @ present]))[0]
    np.testing.assert_allclose(fitted, expected, atol=2e-4 * np.abs(expected).max())
    first = [block_modules(model)[0].mlp.down_proj.weight for model in (target, before)]
    assert not torch.equal(*first)


def two_blocks() -> PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_config("llama", num_hidden_layers=2)
    return randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.05)


def test_channels_that_are_not_the_targets_are_refused() -> None:
    reference = two_blocks()
    spec = TargetSpec((0, 1), width=NARROW["hidden"])
    names = refitted_matrices(draft_target(reference, spec))
    with pytest.raises(InputError, match="the target has 16 hidden channels, which are not those that are named"):
        refit(derive(reference, spec)[0], reference, [0, 1], names, as_inputs(TOKENS_BT))


def test_half_of_the_width_is_refitted() -> None:
    reference = reference_of("llama")
    half = inherit_settings([0, 2, 5], **FIRST_HALF)
    target, _, done = derive_refitted(reference, half, lambda model, tokenizer: as_inputs(TOKENS_BT))
    assert done.matrices == 6
    plain = derive(reference, half)[0]
    goal = seen(reference, 5, "mlp.down_proj")[1][:, :16]
    errors = [np.linalg.norm(seen(model, 2, "mlp.down_proj")[1] - goal) for model in (plain, target)]
    assert errors[1] < 0.8 * errors[0]
