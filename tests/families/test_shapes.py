"""Targets of every shape against masked references: some families quickly, all of them in docs/architectures.md."""

from typing import Any

import parity
import pytest
import shapes
import torch
from forward import logits_of, randomised, some_tokens
from masks import projected, without_experts, without_heads, without_neurons
from transformers import AutoModelForCausalLM

from inheritune.arch import Selection, find_structure, legal_head_sizes, silence_libraries
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive

# Plain and grouped; heads that are slices; experts; embeddings scaled and tied; slopes by the number of heads.
QUICK = ("llama", "gpt2", "mixtral", "gemma2", "bloom")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


@pytest.mark.parametrize("kind", QUICK)
def test_some_families(kind: str) -> None:
    """`test_families.test_every_model_type` compares all families, by docs/architectures.md."""
    found = shapes.verdicts(kind)
    assert not [fault for verdict in found.values() for fault in verdict.faults]
    assert {"heads", "hidden", "all"} <= {axis for axis, verdict in found.items() if not verdict.refused}


@pytest.mark.parametrize(
    ("kind", "width", "said"),
    [
        ("olmo2", Selection(heads=(1, 2)), "belongs to a norm over all heads"),
        ("bloom", Selection(heads=(0, 1), hidden=tuple(range(20))), r"other slopes.*legal numbers of heads: 1 \(3\); 2 \(1, 3\)"),
        ("qwen3", Selection(head_size=(0, 2, 4, 6)), "norm over all dimensions of heads"),
        ("nanochat", Selection(head_size=(0, 2, 4, 6)), "normalises the dimensions of each head"),
        ("llama", Selection(head_size=(0, 1, 4, 5)), "legal are 2, 4 dimensions, such as 0, 2, 4, 6 for 4"),
        ("llama", Selection(head_size=(0, 2, 4)), "turn 3 of the 8 dimensions of a head by other angles"),
        ("gpt2", Selection(head_size=(0, 1)), "its heads are slices of its hidden size"),
        ("deepseek_v3", Selection(head_size=(0, 1)), "parts of several sizes"),
        ("mixtral", Selection(experts=(3,)), "sent to 2 .num_experts_per_tok.; select 2 to 6 experts"),
        ("llama", Selection(experts=(0,)), "experts are selected, and its config has none"),
        ("mixtral", Selection(neurons=tuple(range(13))), "multiples of 8; choose 8 or 16"),
        ("gemma3n_text", Selection(hidden=tuple(range(20))), "magnitude over all channels"),
        ("xglm", Selection(heads=(0, 2), hidden=(*range(10), *range(20, 30))), "computed from the width"),
        ("deepseek_v4", Selection(experts=(0, 1, 2)), "sends tokens to experts by their numbers"),
        ("mimo_v2_flash", Selection(heads=(0, 2)), "select whole groups"),
        ("llama", Selection(heads=(0, 1, 2)), "such as 2 or 4 heads"),
        ("llama", Selection(heads=(1, 2), hidden=tuple(range(21))), "multiple of its 2 heads, such as 20 or 22"),
    ],
)  # fmt: skip
def test_what_would_compute_something_else_is_refused(kind: str, width: Selection, said: str) -> None:
    with pytest.raises(InputError, match=said):
        derive(shapes.reference_of(kind), TargetSpec((0, 2), width=width))


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_YARN = {"factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("rope", "legal"),
    [
        ({"rope_type": "default"}, [2, 4, 8, 16]),
        ({"rope_type": "llama3"} | _LLAMA3, [2, 4, 8, 16]),
        ({"rope_type": "linear", "factor": 4.0}, [2, 4, 8, 16]),
        ({"rope_type": "dynamic", "factor": 2.0}, []),
        ({"rope_type": "yarn"} | _YARN, [2]),
    ],
)
def test_legal_sizes_of_heads(rope: dict[str, Any], legal: list[int]) -> None:
    """Frequencies of a smaller head must be among those of the large one: theta to the power of -2 i / size."""
    config = shapes.config_of("llama", head_dim=32, rope_parameters=rope | {"rope_theta": 1e4})
    with torch.device("meta"):
        found = legal_head_sizes(AutoModelForCausalLM.from_config(config))
    assert list(found) == legal
    for size, kept in found.items():
        stride = 32 // size if legal != [2] else 1
        assert kept == tuple(half + stride * pair for half in (0, 16) for pair in range(size // 2))


def test_dimensions_that_are_not_turned_go_freely() -> None:
    """GLM turns neighbours, in the first half of a head: of 32 dimensions, 8 pairs with theta ** (-2 i / 16)."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with torch.device("meta"):
        found = legal_head_sizes(
            AutoModelForCausalLM.from_config(shapes.config_of("glm", head_dim=32, rope_parameters=rope))
        )
    own = [round(1e4 ** (-2 * pair / 16), 6) for pair in range(8)]
    for size in range(1, 32):
        turned = int(size * 0.5)
        wanted = [round(1e4 ** (-2 * pair / turned), 6) for pair in range((turned + 1) // 2)]
        possible = set(wanted) <= set(own) and 0 <= size - 2 * len(wanted) <= 16
        assert (size in found) == possible, size
        if possible:
            pairs = [own.index(frequency) for frequency in wanted]
            kept = [2 * pair + one for pair in pairs for one in (0, 1)]
            assert found[size] == (*kept, *range(16, 16 + size - len(kept)))


def test_groups_of_experts() -> None:
    """Whole groups may go, and equally many experts of each other group."""
    torch.manual_seed(0)
    fields = {"n_routed_experts": 8, "n_group": 4, "topk_group": 1, "num_experts_per_tok": 2}
    config = shapes.config_of("deepseek_v3", **fields)
    reference = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)
    kept = [0, 1, 6, 7]
    target, _ = derive(reference, TargetSpec(tuple(range(6)), width=Selection(experts=tuple(kept))))
    assert (target.config.n_group, target.config.n_routed_experts) == (2, 4)
    with without_experts(reference, find_structure(reference).blocks, 8, kept):
        expected = logits_of(reference, some_tokens())
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)
    with pytest.raises(
        InputError, match=r"1, 1, 1, 1 are selected; select equally many of each group .2 to 2.*at least 1"
    ):
        derive(reference, TargetSpec((0, 5), width=Selection(experts=(0, 2, 4, 6))))


def test_a_head_size_that_the_config_leaves_to_its_defaults_is_written() -> None:
    """Qwen 2's heads are slices by default, and its code takes another size: the config gets it."""
    torch.manual_seed(0)
    config = shapes.config_of("qwen2")
    assert "head_dim" not in config.to_dict()
    reference = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)
    target, _ = derive(reference, TargetSpec(tuple(range(6)), width=Selection(heads=(1, 2))))
    assert (target.config.hidden_size, target.config.head_dim) == (40, 10)
    with without_heads(reference, "model.layers", 4, [1, 2]):
        expected = logits_of(reference, some_tokens())
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_that_are_scaled_by_the_root_of_the_hidden_size(tied: bool) -> None:
    """A narrower Gemma scales them by less: the weights make up for it, and the final norm where the head is tied."""
    torch.manual_seed(0)
    config = shapes.config_of("gemma2", tie_word_embeddings=tied)
    reference = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)
    target, plan = derive(reference, TargetSpec((1, 4), width=Selection(hidden=tuple(shapes.CHANNELS))))
    factor = (40 / 24) ** 0.5
    before, after = (model.get_input_embeddings().weight for model in (reference, target))
    torch.testing.assert_close(after, before[:, shapes.CHANNELS] * factor)
    gains = [1 + model.model.norm.weight for model in (reference, target)]
    torch.testing.assert_close(gains[1], gains[0][shapes.CHANNELS] / (factor if tied else 1))
    assert {line.target for line in plan.lines if line.rescale} == {
        "model.embed_tokens.weight", *(["model.norm.weight"] if tied else [])
    }  # fmt: skip
    expected = parity.logits_with(projected(reference, 40, shapes.CHANNELS), [1, 4], some_tokens())
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)


def test_masks_switch_something_off() -> None:
    """The yardsticks of this file change the logits, and a mask that keeps all of it changes nothing."""
    model, tokens_BT = shapes.reference_of("mixtral"), some_tokens()
    whole = logits_of(model, tokens_BT)
    everything = list(range(6))
    with without_heads(model, "model.layers", 4, [0, 1, 2, 3]), without_experts(model, "model.layers", 6, everything):
        assert torch.equal(logits_of(model, tokens_BT), whole)
    for hooks in (
        without_heads(model, "model.layers", 4, [0]),
        without_neurons(model, "model.layers", 40, lambda width: [0]),
        without_experts(model, "model.layers", 6, [1, 2]),
    ):
        with hooks:
            assert (logits_of(model, tokens_BT) - whole).abs().max() > 1e-2
    assert torch.equal(logits_of(model, tokens_BT), whole)
    narrow = logits_of(projected(model, 40, shapes.CHANNELS), tokens_BT)
    assert (narrow - whole).abs().max() > 1e-2
    torch.testing.assert_close(logits_of(projected(model, 40, list(range(40))), tokens_BT), whole, rtol=0, atol=1e-5)
