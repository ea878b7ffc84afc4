from functools import partial
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MambaConfig

from inheritune.arch import build_empty, build_random, build_skeleton, check_positions, new_config
from inheritune.errors import InputError

SIZES = {"n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 16}
SPECIAL = {"eos_token_id": 0}


def make(fields: dict[str, Any], sequence_length: int = 16) -> Any:
    return new_config({"model_type": "gpt2", **SIZES, **fields}, 300, SPECIAL, sequence_length)


def test_fields_and_vocabulary_are_the_recipe_s_and_the_tokenizer_s() -> None:
    config = make({"n_layer": 3})
    assert (config.num_hidden_layers, config.vocab_size, config.eos_token_id) == (3, 300, 0)
    assert config.bos_token_id is None
    assert config.pad_token_id is None


def test_other_names_of_a_field_are_legal() -> None:
    assert make({"hidden_size": 12}).n_embd == 12


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gtp2"}, r"model_type: transformers has no 'gtp2'.*gpt2"),
        ({"model_type": None}, r"model_type: transformers has no None"),
        ({"model_type": ["gpt2"]}, r"model_type: transformers has no \['gpt2'\]"),
        ({"n_layers": 3}, r"gpt2 has no field 'n_layers'; nearest: .*n_layer"),
        ({"vocab_size": 300}, r"vocab_size: the tokenizer decides it"),
        ({"n_embd": "wide"}, r"gpt2 refuses it: .*n_embd.*expected int"),
        ({"n_head": 3}, r"gpt2 cannot be built: .*divisible"),
        ({"n_layer": 0}, r"how many blocks"),
        ({"n_positions": 15}, r"the model has 15 positions, train\.sequence_length is 16; give at most 15"),
    ],
)
def test_what_cannot_be_built_is_said_with_the_remedy(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make(fields)
    assert "\n" not in str(caught.value)


def test_encoders_cannot_be_references() -> None:
    with pytest.raises(InputError, match="encoder-decoder"):
        new_config({"model_type": "t5"}, 300, SPECIAL, 16)
    with pytest.raises(InputError, match="bert is an encoder"):
        new_config({"model_type": "bert"}, 300, SPECIAL, 16)


def test_positions_without_a_limit_are_enough() -> None:
    check_positions(LlamaConfig(max_position_embeddings=8), 8, "here")
    with pytest.raises(InputError, match="here: the model has 8 positions"):
        check_positions(LlamaConfig(max_position_embeddings=8), 9, "here")
    unlimited = new_config(
        {"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 8, "state_size": 2}, 300, SPECIAL, 10**6
    )
    assert unlimited.model_type == "mamba"


def test_the_seed_alone_decides_the_weights() -> None:
    config = make({})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_random(config, 1)
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were used"
    again, other = build_random(config, 1), build_random(config, 2)
    name = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert {tensor.dtype for tensor in first.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False])
def test_an_empty_model_has_its_ties(tied: bool) -> None:
    model = build_empty(make({"tie_word_embeddings": tied}), torch.bfloat16)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert {tensor.device.type for tensor in model.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("config", "build"),
    [
        (
            LlamaConfig(
                vocab_size=0,
                num_hidden_layers=1,
                hidden_size=8,
                intermediate_size=8,
                num_attention_heads=2,
                pad_token_id=0,
            ),
            build_skeleton,
        ),
        (
            MambaConfig(vocab_size=8, num_hidden_layers=1, hidden_size=8, time_step_rank=0),
            partial(build_random, seed=1),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_config_that_makes_no_model_is_wrong_input(config: Any, build: Any) -> None:
    with pytest.raises(
        InputError, match=r"cannot be built: transformers refuses this config \((Index|ZeroDivision)Error"
    ):
        build(config)
