"""Parameters and FLOPs against numbers worked out by hand."""

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedModel

from inheritune.arch import parameter_count, training_flops_per_token
from inheritune.inheritance import inherit

HIDDEN, LAYERS, VOCABULARY, POSITIONS = 8, 3, 50, 16

# GPT-2, a block: two norms of 2 D; attention D x 3D + 3D in, D x D + D out; feed-forward D x 4D + 4D and 4D x D + D.
GPT2_BLOCK = 2 * 16 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
GPT2_WITHOUT_EMBEDDINGS = LAYERS * GPT2_BLOCK + 16  # and the final norm

# Llama: 4 heads of 2, 2 of them for keys and values, no biases, 12 wide: a block, and the final norm.
LLAMA_BLOCK = 2 * 8 + (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8) + 3 * 8 * 12
LLAMA_WITHOUT_EMBEDDINGS = LAYERS * LLAMA_BLOCK + 8


def model(config: PretrainedConfig) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def gpt2() -> PreTrainedModel:
    """Tied: the head is the input embedding."""
    return model(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=HIDDEN, n_layer=LAYERS, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def llama(**fields: int | bool) -> PreTrainedModel:
    return model(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=12, num_hidden_layers=LAYERS,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=POSITIONS, **fields,
        )
    )  # fmt: skip


def test_gpt2_by_hand(gpt2: PreTrainedModel) -> None:
    assert GPT2_BLOCK == 872
    assert parameter_count(gpt2) == 50 * 8 + 16 * 8 + GPT2_WITHOUT_EMBEDDINGS == 3160
    # neither of the two embeddings, the head once; 3 blocks, 2 heads of 4
    matrices = GPT2_WITHOUT_EMBEDDINGS + 50 * 8
    assert training_flops_per_token(gpt2, 16) == 6 * matrices + 12 * 3 * 2 * 4 * 16 == 22_800


def test_untied_llama_by_hand() -> None:
    whole = llama(tie_word_embeddings=False)
    assert LLAMA_BLOCK == 496
    assert parameter_count(whole) == 2 * 50 * 8 + LLAMA_WITHOUT_EMBEDDINGS == 2296
    matrices = LLAMA_WITHOUT_EMBEDDINGS + 50 * 8
    assert training_flops_per_token(whole, 32) == 6 * matrices + 12 * 3 * 4 * 2 * 32 == 20_592


def test_tying_saves_parameters_and_no_flops() -> None:
    tied, untied = llama(tie_word_embeddings=True), llama(tie_word_embeddings=False)
    assert parameter_count(untied) - parameter_count(tied) == 50 * 8
    assert training_flops_per_token(tied, 10) == training_flops_per_token(untied, 10)


def test_heads_need_not_add_up_to_the_hidden_size() -> None:
    """12 L H Q T with heads of 6, though 8 / 4 is 2."""
    wide = llama(head_dim=6)
    longer = training_flops_per_token(wide, 11) - training_flops_per_token(wide, 10)
    assert longer == 12 * LAYERS * 4 * 6


def test_a_block_less_costs_a_block_less(gpt2: PreTrainedModel) -> None:
    target = inherit(gpt2, 2)
    assert parameter_count(gpt2) - parameter_count(target) == GPT2_BLOCK
    saved = training_flops_per_token(gpt2, 16) - training_flops_per_token(target, 16)
    assert saved == 6 * GPT2_BLOCK + 12 * 2 * 4 * 16
