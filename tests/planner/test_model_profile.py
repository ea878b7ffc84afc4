"""Predicted parameters and FLOPs against models that were built, and against torch's own counting."""

import copy
from typing import Any

import document
import parity
import pytest
import torch
from tiny_families import FAMILIES
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, MixtralConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import (
    build_skeleton,
    find_structure,
    first_units,
    flops_per_token,
    narrow,
    parameter_count,
    silence_libraries,
    training_flops_per_token,
)
from inheritune.errors import InputError
from inheritune.inheritance import draft_target, inherit_settings, resolve
from inheritune.planner import ModelProfile
from inheritune.recipe import HALF

LENGTH = 32
SELECTIONS: tuple[list[int], ...] = ([0], [0, 1], [0, 1, 2, 3], [0, 2], [1, 2])


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


def config_of(kind: str) -> PretrainedConfig:
    config: PretrainedConfig = CONFIG_MAPPING[kind](**FAMILIES[kind].fields)
    return config


def check_against_targets(config: PretrainedConfig, selections: Any, **widths: float) -> int:
    """What is predicted for each selection is what the target has (without memory); says how many there were."""
    reference = build_skeleton(config)
    profile = ModelProfile(narrow(config, first_units(config, widths)))
    compared = 0
    for kept in selections:
        try:
            spec = resolve(inherit_settings(kept, **widths, importance="first"), reference.config)
            target = draft_target(reference, spec).target
        except InputError:  # such a target cannot be
            continue
        parts = profile.parts(kept)
        assert sum(part.size for part in parts) == parameter_count(target), kept
        active = sum(part.size * part.share for part in parts)
        assert flops_per_token(target.config, active, LENGTH) == training_flops_per_token(target, LENGTH), kept
        blocks = target.get_submodule(find_structure(target).blocks)
        found = [sum(part.size for part in parts if part.place == place) for place in range(len(kept))]
        if len({id(p) for p in blocks.parameters()}) == sum(len(list(b.parameters())) for b in blocks):  # none shared
            assert found == [sum(p.numel() for p in block.parameters()) for block in blocks], kept
        compared += 1
    return compared


@pytest.mark.parametrize("kind", FAMILIES)
def test_parameters_are_exact(kind: str) -> None:
    assert check_against_targets(config_of(kind), SELECTIONS) >= 3


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_parameters_are_exact_for_every_model_type(kind: str) -> None:
    if document.standing(kind)[0] == "yes":
        assert check_against_targets(parity.config_of(kind), parity.SELECTIONS)


def test_half_width_and_stacked() -> None:
    assert check_against_targets(config_of("llama"), SELECTIONS, **HALF) == len(SELECTIONS)
    assert sum(part.size for part in ModelProfile(config_of("llama")).parts([0, 1, 0, 1])) == sum(
        part.size for part in ModelProfile(config_of("llama")).parts()
    )


def test_embeddings_by_hand() -> None:
    parts = ModelProfile(config_of("gpt2")).parts()
    assert [part.size for part in parts if part.is_embedding] == [67 * 32, 64 * 32]
    assert [part.share for part in parts if part.is_embedding] == [1.0, 0.0]  # the first is the head, too


def test_only_the_experts_that_a_token_is_sent_to_count() -> None:
    """Mixtral: two of four experts, each three matrices of 32 x 48, in each of four blocks."""
    config = config_of("mixtral")
    parts = ModelProfile(config).parts()
    total = sum(part.size for part in parts)
    experts, embedding = 4 * 4 * 3 * 32 * 48, 67 * 32
    assert sum(part.size * part.share for part in parts) == total - experts / 2 - embedding


# Wide enough for the products to outweigh norms and biases, which the convention counts and which are no products.
_WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 512}
WIDE: dict[str, dict[str, Any]] = {
    "llama": {**_WIDE, "num_hidden_layers": 3, "num_key_value_heads": 2},
    "qwen2": {**_WIDE, "num_hidden_layers": 3, "num_key_value_heads": 2},
    "gpt_neox": {**_WIDE, "num_hidden_layers": 3},
    "gpt2": {"n_embd": 128, "n_head": 4, "n_layer": 3, "vocab_size": 512, "n_positions": 64},
    "gemma2": {**_WIDE, "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 32},
    "mixtral": {**_WIDE, "num_hidden_layers": 3, "num_key_value_heads": 2, "num_local_experts": 4},
    "olmo2": {**_WIDE, "num_hidden_layers": 3},
    "phi3": {**_WIDE, "num_hidden_layers": 3},
}


def measured_flops(config: PretrainedConfig, length: int) -> float:
    """FLOPs a token that torch counts in a real step: eager attention, a plain loss; of experts those that are sent to."""
    torch.manual_seed(0)
    own = copy.deepcopy(config)  # building writes into it
    model = AutoModelForCausalLM.from_config(own, attn_implementation="eager", experts_implementation="eager")
    tokens = torch.randint(3, config.vocab_size, (2, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops() / tokens.numel()


def counted(profile: ModelProfile, length: int) -> float:
    """FLOPs a token by the fake step."""
    use = profile.use("float32", False, 1, length)
    assert use is not None, profile.unfollowed
    return 3 * (use.outside.flops + sum(use.blocks[kind].flops for kind in profile.kinds)) / length


@pytest.mark.parametrize("kind", WIDE)
def test_flops_agree_with_torch(kind: str) -> None:
    """Both the convention and what is counted one by one, within 2 %."""
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config: PretrainedConfig = CONFIG_MAPPING[kind](**WIDE[kind], **tokens)
    profile = ModelProfile(config)
    measured = measured_flops(config, LENGTH)
    active = sum(part.size * part.share for part in profile.parts())
    assert flops_per_token(config, active, LENGTH) == pytest.approx(measured, rel=0.02)
    assert counted(profile, LENGTH) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt_oss", "bloom"])
def test_what_is_counted_agrees_where_the_convention_does_not(kind: str) -> None:
    """Tiny models, in which norms and biases weigh; latent attention, whose heads head_dim does not tell."""
    config = config_of(kind)
    profile = ModelProfile(config)
    measured = measured_flops(config, LENGTH)
    assert counted(profile, LENGTH) == pytest.approx(measured, rel=0.02)
    active = sum(part.size * part.share for part in profile.parts())
    assert flops_per_token(config, active, LENGTH) != pytest.approx(measured, rel=0.02)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "mamba"])
def test_what_is_counted_agrees_for_every_family(kind: str) -> None:
    """However small the model, and whatever its attention; of mamba torch counts something else going backward."""
    config = config_of(kind)
    assert counted(ModelProfile(config), LENGTH) == pytest.approx(measured_flops(config, LENGTH), rel=0.02)


@pytest.mark.long
def test_a_state_space_model() -> None:
    """Forward: backward, torch counts a convolution of each channel for itself as one of all with all."""
    config = config_of("mamba")
    tokens = torch.randint(3, config.vocab_size, (2, LENGTH))
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False)
    assert counted(ModelProfile(config), LENGTH) == pytest.approx(
        3 * counter.get_total_flops() / tokens.numel(), rel=0.001
    )


def test_experts_by_the_numbers_of_a_real_one() -> None:
    """Mixtral 8x7B: 46.7B parameters, 12.9B of them active (its paper), embeddings left out here."""
    parts = ModelProfile(MixtralConfig()).parts()
    assert sum(part.size for part in parts) == pytest.approx(46.7e9, rel=0.001)
    assert sum(part.size * part.share for part in parts) + 32000 * 4096 == pytest.approx(12.9e9, rel=0.002)


def test_kinds() -> None:
    assert ModelProfile(config_of("llama")).kinds == [0, 0, 0, 0]
    assert ModelProfile(config_of("gemma3_text")).kinds == [0, 1, 1, 0]


def test_a_deep_model_takes_no_more_than_its_kinds() -> None:
    """Of 40 equal blocks one is run: what is counted is 40 times that of one."""
    config = LlamaConfig(**{**WIDE["llama"], "num_hidden_layers": 40})
    use = ModelProfile(config).use("float32", False, 1, LENGTH)
    assert use is not None
    assert list(use.blocks) == [0]
