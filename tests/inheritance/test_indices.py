"""Any heads, MLP neurons and hidden channels of a model, taken from memory and from files, against plain indexing."""

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from inheritune.arch import Selection, first_units
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive, inherit_settings, resolve, target_config
from inheritune.recipe import FIRST_HALF, HALF, Reference

HEADS, KEYS, SIZE, HIDDEN, NEURONS = 8, 4, 6, 48, 70


def llama(**fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=HIDDEN, intermediate_size=NEURONS, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, head_dim=SIZE, max_position_embeddings=16, **fields,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Reference]:
    model, folder = llama(), tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return model, Reference(path=str(folder))


def subsets(count: int, least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.integers(0, count - 1), min_size=least).map(lambda chosen: tuple(sorted(chosen)))


@st.composite
def widths(draw: st.DrawFn) -> Selection:
    """Heads of some groups, one or both of each, and hidden channels in a number that the heads divide."""
    groups = draw(subsets(KEYS))
    if draw(st.booleans()):
        heads = tuple(chain.from_iterable((2 * group, 2 * group + 1) for group in groups))
    else:
        heads = tuple(2 * group + draw(st.integers(0, 1)) for group in groups)
    hidden = draw(subsets(HIDDEN, len(heads)).filter(lambda chosen: len(chosen) % len(heads) == 0))
    return Selection(heads=heads, neurons=draw(st.none() | subsets(NEURONS)), hidden=hidden)


def expected(model: LlamaForCausalLM, blocks: tuple[int, ...], width: Selection) -> dict[str, torch.Tensor]:
    """What plain indexing of the source's tensors gives."""
    hidden = torch.tensor(width.hidden)
    source, found = model.state_dict(), {}
    for name, tensor in source.items():
        parts = name.split(".")
        if "layers" not in parts:
            found[name] = tensor[hidden] if tensor.ndim == 1 else tensor[:, hidden]
            continue
        for place, block in enumerate(blocks):
            if int(parts[2]) != block:
                continue
            kind, own = parts[-2], width.of_block(place)
            heads, neurons = torch.tensor(own.heads), torch.tensor(own.neurons or range(NEURONS))
            queries = (heads[:, None] * SIZE + torch.arange(SIZE)).flatten()
            keys = ((heads // 2).unique()[:, None] * SIZE + torch.arange(SIZE)).flatten()
            rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": hidden, "gate_proj": neurons,
                    "up_proj": neurons, "down_proj": hidden}  # fmt: skip
            columns = {"o_proj": queries, "down_proj": neurons}
            part = tensor[rows[kind]][:, columns.get(kind, hidden)] if kind in rows else tensor[hidden]
            found[".".join([*parts[:2], str(place), *parts[3:]])] = part
    return found


@pytest.mark.long
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(width=widths(), blocks=st.sampled_from([(0, 1, 2), (0, 2), (1,), (0, 0, 1, 1)]))
def test_a_llama_gets_exactly_the_selected_rows_and_columns(
    stored: tuple[LlamaForCausalLM, Reference], width: Selection, blocks: tuple[int, ...]
) -> None:
    model, reference = stored
    spec, wanted = TargetSpec(blocks, width=width), expected(model, blocks, width)
    for source in (model, reference):
        target, plan = derive(source, spec)
        tensors = target.state_dict()
        assert plan.kept == blocks
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
        assert target.config.num_attention_heads == len(width.heads or ())
        target(torch.tensor([[1, 2, 3]]))


def test_every_block_can_keep_indices_of_its_own(stored: tuple[LlamaForCausalLM, Reference]) -> None:
    model, reference = stored
    width = Selection(heads=((0, 1, 4, 5), (2, 3, 6, 7)), neurons=((0, 1, 69), (3, 4, 5)), hidden=tuple(range(8, 48)))
    wanted = expected(model, (0, 2), width)
    for source in (model, reference):
        target, _ = derive(source, TargetSpec((0, 2), width=width))
        assert target.config.intermediate_size == 3
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in target.state_dict().items())
    with pytest.raises(InputError, match="each of 2 blocks, and there are 3"):
        derive(model, TargetSpec((0, 1, 2), width=width))
    with pytest.raises(InputError, match="not equally many in each group"):
        derive(model, TargetSpec((0, 2), width=Selection(heads=((0, 1, 4, 5), (0, 1, 2, 4)))))


def test_half_is_a_selection_like_any_other(stored: tuple[LlamaForCausalLM, Reference]) -> None:
    model, reference = stored
    half = Selection(heads=tuple(range(4)), neurons=tuple(range(35)), hidden=tuple(range(24)))
    assert first_units(model.config, HALF) == half
    assert resolve(inherit_settings([0, 2], **FIRST_HALF), model.config) == TargetSpec((0, 2), width=half)
    wanted = expected(model, (0, 2), half)
    target = derive(reference, inherit_settings([0, 2], **FIRST_HALF))[0].state_dict()
    assert all(torch.equal(tensor, target[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (Selection(heads=(0, 8)), "index 8 of num_attention_heads is selected, which is 8"),
        (Selection(heads=(0, 1, 2)), "not equally many in each group that shares a head of num_key_value_heads"),
        (Selection(by_field=(("width", (0,)),)), "its config has no width 'width'; legal are num_attention_heads"),
        (Selection(hidden=(0, 1, 2)), "refuses other widths"),
    ],
)
def test_what_cannot_be_selected_is_named(width: Selection, said: str) -> None:
    with pytest.raises(InputError, match=said):
        target_config(llama().config, TargetSpec((0,), width=width))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Selection(heads=()), "heads: give at least one"),
        (lambda: Selection(neurons=(2, 1)), "neurons: give indices in rising order"),
        (lambda: Selection(hidden=(1, 1)), "hidden: .* each once"),
        (lambda: Selection(vocabulary=(2, 1)), "vocabulary: give indices in rising order"),
        (lambda: Selection(by_field=(("n", (-1,)),)), "n: .* counted from 0"),
        (lambda: Selection(heads=((0, 1), (2,))), "heads: give equally many indices for every block"),
        (lambda: Selection(heads=((0,), (2,)), neurons=((0,),)), "the same number of blocks along each axis"),
        (lambda: TargetSpec(()), "blocks: give at least one"),
    ],
)
def test_impossible_selections_cannot_be_made(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="block 3 is not there: the reference has 3"):
        target_config(llama().config, TargetSpec((0, 3)))
    assert target_config(llama().config, TargetSpec((2, 2))).num_hidden_layers == 2


def test_heads_that_are_slices_of_the_hidden_size_take_their_channels_along() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=32, n_head=4, n_layer=2, n_positions=8)).eval()
    channels = (*range(8), *range(24, 32))
    target, _ = derive(model, TargetSpec((1,), width=Selection(heads=(0, 3), hidden=channels)))
    kept = torch.tensor(channels)
    thirds = torch.cat([32 * part + kept for part in range(3)])
    source = model.state_dict()["transformer.h.1.attn.c_attn.weight"]
    assert torch.equal(target.state_dict()["transformer.h.0.attn.c_attn.weight"], source[kept][:, thirds])
    with pytest.raises(InputError, match="its heads are slices of its hidden size, 8 channels each"):
        derive(model, TargetSpec((1,), width=Selection(heads=(0, 3), hidden=tuple(range(16)))))
    with pytest.raises(InputError, match="slices of its hidden size"):
        derive(model, TargetSpec((1,), width=Selection(heads=(0, 3))))


def test_experts_of_two_widths_are_selected_by_field() -> None:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    model = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            vocab_size=9, hidden_size=16, intermediate_size=20, moe_intermediate_size=6,
            shared_expert_intermediate_size=10, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            num_experts=3, num_experts_per_tok=2, bos_token_id=0, eos_token_id=1,
        )
    ).eval()  # fmt: skip
    with pytest.raises(InputError, match=r"neurons are selected, and its config has .*; select them by field"):
        derive(model, TargetSpec((0,), width=Selection(neurons=(0, 1))))
    fields = (("moe_intermediate_size", (0, 3, 5)), ("shared_expert_intermediate_size", (9,)))
    tensors = derive(model, TargetSpec((1,), width=Selection(by_field=fields)))[0].state_dict()
    source = model.state_dict()
    fused = source["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(tensors["model.layers.0.mlp.experts.gate_up_proj"], fused[:, [0, 3, 5, 6, 9, 11]])
    shared = source["model.layers.1.mlp.shared_expert.down_proj.weight"]
    assert torch.equal(tensors["model.layers.0.mlp.shared_expert.down_proj.weight"], shared[:, [9]])
