"""The attention that is seen against matrices built from queries and keys by hand, and those transformers gives out."""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import slow
import torch
from forward import as_inputs, as_rows, logits_of, some_tokens
from tiny_families import build

from inheritune.analysis import attention_seen, describe, eager_attention, pass_through
from inheritune.errors import RunError

Built = Callable[[Any, dict[str, np.ndarray]], Any]


def seen_in(model: Any, tokens_BT: torch.Tensor) -> dict[int, Any]:
    """Every block's attention (B, H, T, T) as it is handed on."""
    found: dict[int, list[Any]] = {}
    with torch.no_grad(), eager_attention(model), attention_seen(
        model, lambda block, weights: found.setdefault(block, []).append(weights.double().numpy())
    ):  # fmt: skip
        model(input_ids=tokens_BT, use_cache=False)
    assert all(len(several) == 1 for several in found.values())
    return {block: several[0] for block, several in found.items()}


@contextmanager
def outputs_of(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, Any]]:
    """What modules return in a forward, by name, in float64 numpy."""
    found: dict[str, Any] = {}

    def note(name: str) -> Any:
        return lambda module, given, got: found.__setitem__(name, got.detach().double().numpy())

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rotated(vectors_HTD: Any, theta: float) -> Any:
    """Rotary embedding: features i and i + D/2 of position t turn by t / theta^(2i/D)."""
    half = vectors_HTD.shape[-1] // 2
    out = np.zeros_like(vectors_HTD)
    for at in range(vectors_HTD.shape[1]):
        for pair in range(half):
            angle = at / theta ** (2 * pair / (2 * half))
            x, y = vectors_HTD[:, at, pair], vectors_HTD[:, at, pair + half]
            out[:, at, pair] = x * np.cos(angle) - y * np.sin(angle)
            out[:, at, pair + half] = y * np.cos(angle) + x * np.sin(angle)
    return out


def scores_of(queries_HTD: Any, keys_HTD: Any) -> Any:
    scores = [query @ key.T / np.sqrt(query.shape[-1]) for query, key in zip(queries_HTD, keys_HTD, strict=True)]
    return np.array([slow.softmax(one) for one in scores])


def split(features_TF: Any, heads: int) -> Any:
    """(T, H * D) to (H, T, D)."""
    return features_TF.reshape(len(features_TF), heads, -1).transpose(1, 0, 2)


def llama_by_hand(model: Any, tokens_BT: torch.Tensor) -> list[Any]:
    """Attention (H, T, T) of the first sequence: rotary embedding, keys shared by groups of queries."""
    layers = model.model.layers
    names = {
        f"{at}.{kind}": getattr(one.self_attn, kind) for at, one in enumerate(layers) for kind in ("q_proj", "k_proj")
    }
    with outputs_of(names) as found:
        logits_of(model, tokens_BT)
    built = []
    for at in range(len(layers)):
        queries = rotated(split(found[f"{at}.q_proj"][0], 4), model.config.rope_parameters["rope_theta"])
        keys = rotated(split(found[f"{at}.k_proj"][0], 2), model.config.rope_parameters["rope_theta"])
        built.append(scores_of(queries, [keys[head // 2] for head in range(4)]))
    return built


def gpt2_by_hand(model: Any, tokens_BT: torch.Tensor) -> list[Any]:
    """Attention (H, T, T) of the first sequence: queries, keys and values behind each other in one projection."""
    layers = model.transformer.h
    with outputs_of({str(at): one.attn.c_attn for at, one in enumerate(layers)}) as found:
        logits_of(model, tokens_BT)
    width = model.config.n_embd
    return [
        scores_of(split(found[str(at)][0][:, :width], 4), split(found[str(at)][0][:, width : 2 * width], 4))
        for at in range(len(layers))
    ]


@pytest.mark.parametrize(("kind", "by_hand"), [("llama", llama_by_hand), ("gpt2", gpt2_by_hand)])
def test_it_is_what_queries_and_keys_make(kind: str, by_hand: Any) -> None:
    model, tokens_BT = build(kind), some_tokens(1, 14)
    seen = seen_in(model, tokens_BT)
    built = by_hand(model, tokens_BT)
    assert sorted(seen) == list(range(len(built)))
    for block, matrices_HTT in enumerate(built):
        assert np.abs(seen[block][0] - matrices_HTT).max() < 2e-6
    passed = pass_through(model, as_inputs(tokens_BT), (0.8, 0.9))
    for block, matrices_HTT in enumerate(built):
        figures_HF = passed.heads[block][0]  # type: ignore[index]
        for head, matrix in enumerate(matrices_HTT):
            expected = [slow.rank(matrix, 0.8), slow.rank(matrix, 0.9), slow.mass(matrix, 0.8)]
            assert figures_HF[head, :3].tolist() == expected
            assert figures_HF[head, 3:].tolist() == pytest.approx([slow.sink(matrix), slow.entropy(matrix)], abs=1e-5)


# With groups; code that asks the config in every forward; latent attention; sinks and windows; soft-capped; alibi.
OTHERS = ["qwen3", "falcon", "deepseek_v3", "gpt_oss", "gemma2", "bloom", "gpt_neox", "gpt_neo", "mpt", "opt"]


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_what_transformers_gives_out(kind: str) -> None:
    model, tokens_BT = build(kind), some_tokens(2, 12)
    own = build(kind, attn_implementation="eager")
    own.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = own(input_ids=tokens_BT, use_cache=False, output_attentions=True).attentions
    seen = seen_in(model, tokens_BT)
    assert sorted(seen) == list(range(len(expected))) == [0, 1, 2, 3]
    passed = pass_through(model, as_inputs(tokens_BT))
    for block, weights_BHTT in enumerate(expected):
        assert np.abs(seen[block] - weights_BHTT.double().numpy()).max() < 1e-5
        ranks = [[slow.rank(matrix, 0.9) for matrix in heads] for heads in weights_BHTT.numpy()]
        masses = [[slow.mass(matrix, 0.9) for matrix in heads] for heads in weights_BHTT.numpy()]
        assert passed.heads[block][..., 0].tolist() == ranks  # type: ignore[index]
        assert passed.heads[block][..., 1].tolist() == masses  # type: ignore[index]


def test_sinks_that_are_no_position_leave_rows_below_one() -> None:
    rows = next(iter(seen_in(build("gpt_oss"), some_tokens(1, 12)).values())).sum(-1)
    assert rows.max() < 1
    assert rows.min() > 0


def test_hidden_states_give_influence_and_distances() -> None:
    model, tokens_BT = build("llama"), some_tokens(3, 10)
    with torch.no_grad():
        body = model.model(input_ids=tokens_BT, use_cache=False, output_hidden_states=True)
    states: list[Any] = [state.double().numpy() for state in body.hidden_states]
    with outputs_of({"last": model.model.layers[3]}) as found:  # transformers' last one is behind the final norm
        logits_of(model, tokens_BT)
    states[-1] = found["last"]
    passed = pass_through(model, as_inputs(tokens_BT), micro_batch=2)
    for left in range(5):
        for right in range(5):
            angles = (np.arccos(slow.cosines(states[left], states[right]).clip(-1, 1)) / np.pi).mean(1)
            assert passed.distances[:, left, right].numpy() == pytest.approx(angles, abs=2e-4)
        if left < 4:
            moved = 1 - slow.cosines(states[left], states[left + 1]).mean(1)
            assert passed.influence[:, left].numpy() == pytest.approx(moved, abs=1e-6)


def test_how_many_pass_at_once_changes_nothing() -> None:
    model, tokens_BT = build("llama"), some_tokens(5, 12)
    found = [pass_through(model, as_inputs(tokens_BT), (0.5, 0.9), size) for size in (1, 2, 8)]
    for other in found[1:]:
        for block in range(4):
            assert torch.equal(other.heads[block][..., :3], found[0].heads[block][..., :3])  # type: ignore[index]
            assert torch.allclose(other.heads[block], found[0].heads[block], atol=1e-5)  # type: ignore[arg-type]
        assert torch.allclose(other.influence, found[0].influence, atol=1e-6)


def test_a_model_in_half_precision_is_within_two_percent() -> None:
    model, tokens_BT = build("llama"), some_tokens(8, 40)
    halved = copy.deepcopy(model).bfloat16()
    ranks = [
        float(torch.stack([heads[..., 0] for heads in pass_through(one, as_inputs(tokens_BT)).heads]).mean())  # type: ignore[index]
        for one in (model, halved)
    ]
    assert ranks[1] == pytest.approx(ranks[0], rel=0.02)


def test_one_layers_attention_is_alive_at_a_time() -> None:
    model = build("llama")
    alive: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def see(block: int, weights: torch.Tensor) -> None:
        held.append(weakref.ref(weights))
        alive.append(sum(one() is not None for one in held))

    with torch.no_grad(), eager_attention(model), attention_seen(model, see):
        logits_of(model, some_tokens(2, 12))
        logits_of(model, some_tokens(2, 12))
        assert len(held) == 8
        assert max(alive) == 1
        assert [one() for one in held] == [None] * 8


@pytest.mark.parametrize("kind", ["llama", "falcon", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(kind: str, training: bool) -> None:
    model, tokens_BT = build(kind), some_tokens(2, 12)
    before, logits = model.config._attn_implementation, logits_of(model, tokens_BT)
    model.train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    pass_through(model, as_inputs(tokens_BT))
    if not training:
        describe(model, as_rows(some_tokens(2, 13)))
    assert model.config._attn_implementation == before
    assert model.training is training
    for module in model.modules():
        assert module.training is training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == wanted[name]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits_of(model.eval(), tokens_BT), logits)


def test_what_fails_inside_leaves_it_as_it_was_too() -> None:
    model, tokens_BT = build("llama"), some_tokens(2, 12)

    def see(block: int, weights: torch.Tensor) -> None:
        raise KeyError(block)

    with pytest.raises(KeyError), torch.no_grad(), eager_attention(model), attention_seen(model, see):
        model(input_ids=tokens_BT, use_cache=False)
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_family_without_attention_says_so_and_has_figures_of_its_blocks() -> None:
    model = build("mamba")
    passed = pass_through(model, as_inputs(some_tokens(3, 10)))
    assert passed.heads == [None] * 4
    assert passed.influence.shape == (3, 4)
    assert float(passed.influence.min()) > 0
    found = describe(model, as_rows(some_tokens(3, 11)))[0].model_dump()
    assert "no attention weights" in found["no_attention"]
    assert found["maps"] is found["lazy_layers"] is found["lazy_groups"] is found["collapsed_share"] is None
    for block in found["blocks"]:
        assert block["attention"] is block["gradients"] is None
        assert block["influence"]["mean"] > 0
        assert block["skipped"]["mean"] != 0
        assert block["depth_loss"]["mean"] > 0
    assert found["blocks"][-1]["depth_loss"] == pytest.approx(found["loss"])


def test_in_a_hybrid_blocks_with_attention_have_their_figures() -> None:
    model = build(
        "jamba", vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, num_experts=2,
        use_mamba_kernels=False, mamba_d_state=4, mamba_dt_rank=4, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    found = describe(model, as_rows(some_tokens(2, 11)))[0].model_dump()
    assert [block["attention"] is not None for block in found["blocks"]] == [False, True, False, True]
    assert found["no_attention"] is None
    assert found["collapsed_share"] is not None


def test_weights_that_are_not_finite_are_an_error() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="the output of block 1 is not finite"):
        pass_through(model, as_inputs(some_tokens()))
