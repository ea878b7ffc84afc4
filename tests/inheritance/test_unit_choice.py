"""Units that are planted to be worthless go first; shapes that cannot be are refused; targets of shapes."""

from typing import Any

import pytest
import torch
from forward import as_rows, logits_of, randomised, some_tokens
from tiny import tiny_config
from transformers import AutoModelForCausalLM

from inheritune.arch import Selection
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive
from inheritune.inheritance.units import (
    CRITERIA,
    Shape,
    choice,
    choose_units,
    collect_statistics,
    derive_shape,
    rotate_to_components,
)

ROWS = as_rows(some_tokens(24, 17))


def tiny(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(tiny_config(kind, **changes), dtype=torch.float32))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("criterion", ["magnitude", "activation", "gradient", "error"])
def test_neurons_without_weights_go_first(kind: str, criterion: str) -> None:
    model = tiny(kind)
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            block.mlp.down_proj.weight[:, [number, number + 20]] = 0
    width = choose_units(model, [0, 2, 5], Shape(neurons=46), ROWS, criterion)
    assert width == Selection(
        neurons=tuple(tuple(i for i in range(48) if i not in (block, block + 20)) for block in (0, 2, 5))
    )


def test_of_redundant_neurons_one_goes_first() -> None:
    model = tiny("llama")
    with torch.no_grad():
        for module in (model.model.layers[1].mlp.gate_proj, model.model.layers[1].mlp.up_proj):
            module.weight[30] = module.weight[4]
    (kept,) = choose_units(model, [1], Shape(neurons=47), ROWS, "error").neurons
    assert len({4, 30} & set(kept)) == 1
    (kept,) = choose_units(model, [1], Shape(neurons=46), ROWS, "error").neurons
    assert len({4, 30} & set(kept)) == 1


@pytest.mark.parametrize("criterion", ["magnitude", "activation", "gradient", "error"])
def test_whole_groups_of_heads_stay_or_parts_of_each_whichever_loses_less(criterion: str) -> None:
    """4 of 8 heads in 2 groups: one group, or two heads of each."""
    fields = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8}
    groups, parts = tiny("llama", **fields), tiny("llama", **fields)
    with torch.no_grad():
        for number in (1, 3):
            groups.model.layers[number].self_attn.o_proj.weight[:, 32:] *= 1e-3
            for head in (0, 2, 5, 6):
                parts.model.layers[number].self_attn.o_proj.weight[:, head * 8 : head * 8 + 8] *= 1e-3
    for model, expected in ((groups, (0, 1, 2, 3)), (parts, (1, 3, 4, 7))):
        assert choose_units(model, [1, 3], Shape(heads=4), ROWS, criterion).heads == (expected, expected)


@pytest.mark.parametrize("criterion", ["magnitude", "activation", "gradient", "error"])
def test_hidden_channels_that_nothing_writes_go_first(criterion: str) -> None:
    model, gone = tiny("llama"), [3, 8, 9, 31]
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor[gone] *= 1e-4
            elif tensor.dim() == 2:
                tensor[:, gone] *= 1e-4
            else:
                tensor[gone] *= 1e-4
    assert choose_units(model, range(6), Shape(hidden=28), ROWS, criterion).hidden == tuple(
        channel for channel in range(32) if channel not in gone
    )


def test_several_axes_are_chosen_as_each_is_alone_and_a_pass_can_be_given() -> None:
    model, blocks, shape = tiny("llama"), [0, 3, 4], Shape(neurons=20, heads=2, hidden=16)
    seen = collect_statistics(model, ROWS, ["inputs", "stream", "gradients"])
    width = choose_units(model, blocks, shape, ROWS, seen=seen)
    assert width == choose_units(model, blocks, shape, ROWS)
    assert width.neurons == choose_units(model, blocks, Shape(neurons=20), ROWS).neurons
    assert width.heads == choose_units(model, blocks, Shape(heads=2), ROWS).heads
    with pytest.raises(InputError, match="the statistics lack inputs, stream, which the criteria need"):
        choose_units(model, blocks, shape, ROWS, seen=collect_statistics(model, ROWS, ["gradients"]))


def test_blocks_whose_sums_do_not_fit_into_memory_take_a_pass_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = tiny("llama"), Shape(neurons=20, heads=2, hidden=16)
    expected = choose_units(model, range(6), shape, ROWS)
    monkeypatch.setattr(choice, "_MEMORY", 48**2 * 8 * 2 * 2)
    passes: list[Any] = []
    collect = collect_statistics
    monkeypatch.setattr(
        choice, "collect_statistics", lambda *args, **more: passes.append(more["blocks"]) or collect(*args, **more)
    )
    assert choose_units(model, range(6), shape, ROWS) == expected
    assert [list(blocks) for blocks in passes] == [list(range(6)), [0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("kind", "shape", "criterion", "said"),
    [
        ("llama", Shape(neurons=49), "error", "index 48 of intermediate_size is selected, which is 48"),
        ("llama", Shape(neurons=0), "error", "neurons: 0 asked for; ask for at least 1"),
        ("llama", Shape(heads=3), "error", "3 asked for, of 4 in 2 groups .*; legal nearby are 2 and 4"),
        ("llama", Shape(hidden=15), "error", "refuses other widths"),
        ("llama", Shape(neurons=4), "router", "'router' for neurons; legal are activation, error, gradient, magnitude"),
        ("llama", Shape(neurons=4), "size", "'size' for neurons; legal are"),
        ("mixtral", Shape(neurons=8), "error", "block 0 has no single matrix behind its neurons"),
        ("olmo2", Shape(heads=2), "error", "belongs to a norm over all heads"),
    ],
)
def test_what_cannot_be_chosen_is_refused(kind: str, shape: Shape, criterion: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose_units(tiny(kind), [0, 1], shape, ROWS, criterion)


def test_only_magnitude_needs_no_text() -> None:
    model = tiny("llama")
    assert len(choose_units(model, [0], Shape(neurons=7), None, "magnitude").neurons[0]) == 7
    with pytest.raises(InputError, match="'error' for neurons without text; give text, or the criterion magnitude"):
        choose_units(model, [0], Shape(neurons=7), None)


@pytest.mark.parametrize("rotated", [True, False])
def test_a_target_of_any_shape_is_nearer_to_the_reference_when_refitted(rotated: bool) -> None:
    model, shape = tiny("llama"), Shape(neurons=40, heads=2, hidden=28)
    expected = logits_of(model, some_tokens())
    plain, fitted = (
        derive_shape(model, [0, 1, 2, 4, 5], shape, ROWS, rotated=rotated, ridge=ridge) for ridge in (None, 0.1)
    )
    assert plain.rotated is fitted.rotated is rotated
    assert plain.refit is None
    assert fitted.refit.matrices == 10
    for one in (plain, fitted):
        config = one.target.config
        assert (config.num_hidden_layers, config.intermediate_size, config.num_attention_heads) == (5, 40, 2)
        assert config.hidden_size == 28
    apart = [float((logits_of(one.target, some_tokens()) - expected).square().mean()) for one in (plain, fitted)]
    assert apart[1] < 0.9 * apart[0]
    again = derive(fitted.source, TargetSpec((0, 1, 2, 4, 5), width=fitted.width))[0]
    assert again.config.to_dict() == fitted.target.config.to_dict()


def test_rotated_channels_are_the_principal_components() -> None:
    model, rotated = (source := tiny("llama")), rotate_to_components(source, ROWS)[0]
    before, after = (collect_statistics(one, ROWS, ["stream"]).products_DD for one in (model, rotated))
    values = torch.linalg.eigvalsh(before).flip(0)
    torch.testing.assert_close(after, torch.diag(values), rtol=1e-3, atol=1e-5)


def test_where_nothing_can_be_rotated_channels_are_selected() -> None:
    model = tiny("gemma3_text")
    found, rotated = rotate_to_components(model, ROWS)
    assert found is model
    assert not rotated
    done = derive_shape(model, range(6), Shape(hidden=24), ROWS, ridge=None)
    assert not done.rotated
    assert done.source is model
    assert len(done.width.hidden) == 24


def test_every_criterion_is_registered_with_its_axes() -> None:
    assert sorted(CRITERIA) == ["activation", "error", "gradient", "magnitude", "router"]
    assert CRITERIA["router"].axes == {"experts"}


@pytest.mark.parametrize(
    ("kind", "fields"), [("mixtral", {}), ("qwen3_moe", {}), ("deepseek_v3", {"n_group": 2, "topk_group": 1})]
)
def test_an_expert_that_no_token_is_sent_to_goes_first(kind: str, fields: dict[str, Any]) -> None:
    """Of experts in groups, two of each group stay or one whole group."""
    fields = {"num_experts_per_tok": 1, **fields} | ({"n_routed_experts": 6} if "n_group" in fields else {})
    model, count = tiny(kind, **fields), 4 if "n_group" in fields else 3
    dead = {1, 4} if "n_group" in fields else {2}
    with torch.no_grad():
        for block in model.model.layers:
            for gate in (module for name, module in block.named_modules() if name == "mlp.gate"):
                gate.weight[sorted(dead)] = 0
                if hasattr(gate, "e_score_correction_bias"):
                    gate.e_score_correction_bias.zero_()[sorted(dead)] = -9
                else:
                    gate.weight *= 10
    blocks = [3, 5]
    seen = collect_statistics(model, ROWS, ["routing"])
    width = choose_units(model, blocks, Shape(experts=count), ROWS)
    for place, block in enumerate(blocks):
        counts = seen.routing[block].counts_E
        others = sorted(set(range(len(counts))) - dead)
        assert counts[sorted(dead)].max() <= counts[others].min()
        assert width.experts[place] == tuple(others)
    target = derive(model, TargetSpec(tuple(blocks), width=width))[0]
    logits_of(target, some_tokens())


def test_what_cannot_be_refitted_is_refused_before_a_pass() -> None:
    with pytest.raises(InputError, match=r"no single matrix of its MLP is added .* inherit without the refit"):
        derive_shape(tiny("gemma3_text"), range(6), Shape(neurons=24), None)  # type: ignore[arg-type]
