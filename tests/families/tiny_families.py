"""Tiny random decoders of many architectures: 4 blocks, hidden size 32, 67 tokens. A row more is a family tested more."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from forward import VOCABULARY, randomised
from forward import logits_of as logits_of
from forward import logits_through as logits_through
from forward import some_tokens as some_tokens
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

DEPTH = 4
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_PLAIN = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_PLAIN, "num_key_value_heads": 2}
_GPT2 = {**_TOKENS, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 64}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_WINDOWS = {"head_dim": 8, "sliding_window": 6}  # shorter than the sequences of the tests


def _same(logits: torch.Tensor) -> torch.Tensor:
    return logits


@dataclass(frozen=True)
class Family:
    """A row: the config's fields, where blocks and final norm are, and what comes after the head."""

    fields: dict[str, Any]
    blocks: str = "model.layers"
    norm: str = "model.norm"
    after_head: Callable[[torch.Tensor], torch.Tensor] = field(default=_same)


FAMILIES: dict[str, Family] = {
    "bloom": Family({**_TOKENS, "hidden_size": 32, "n_layer": DEPTH, "n_head": 4}, "transformer.h", "transformer.ln_f"),
    "cohere": Family({**_GROUPED, "logit_scale": 0.25}, after_head=lambda logits: logits * 0.25),
    "deepseek_v3": Family(
        {
            **_PLAIN,
            **_EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "first_k_dense_replace": 2,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        }
    ),
    "falcon": Family(
        {**_TOKENS, "hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4},
        "transformer.h",
        "transformer.ln_f",
    ),
    "gemma2": Family(
        {**_GROUPED, **_WINDOWS, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
        after_head=lambda logits: torch.tanh(logits / 3) * 3,
    ),
    "gemma3_text": Family(
        {
            **_GROUPED,
            **_WINDOWS,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        }
    ),
    "gpt2": Family(_GPT2, "transformer.h", "transformer.ln_f"),
    "gpt_neo": Family(
        {
            **_TOKENS,
            "hidden_size": 32,
            "num_layers": DEPTH,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 6,
            "max_position_embeddings": 64,
        },
        "transformer.h",
        "transformer.ln_f",
    ),
    "gpt_neox": Family(_PLAIN, "gpt_neox.layers", "gpt_neox.final_layer_norm"),
    "gpt_oss": Family({**_GROUPED, **_WINDOWS, "num_local_experts": 4}),
    "gptj": Family({**_GPT2, "rotary_dim": 4}, "transformer.h", "transformer.ln_f"),
    "granite": Family({**_GROUPED, "logits_scaling": 2.0}, after_head=lambda logits: logits / 2),
    "llama": Family(_GROUPED),
    "mamba": Family(
        {**_TOKENS, "hidden_size": 32, "num_hidden_layers": DEPTH, "state_size": 4},
        "backbone.layers",
        "backbone.norm_f",
    ),
    "mistral": Family({**_GROUPED, "sliding_window": 6}),
    "mixtral": Family({**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mpt": Family(
        {**_TOKENS, "d_model": 32, "n_layers": DEPTH, "n_heads": 4, "max_seq_len": 64},
        "transformer.blocks",
        "transformer.norm_f",
    ),
    "olmo2": Family(_GROUPED),
    "opt": Family(
        {**_PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "model.decoder.layers",
        "model.decoder.final_layer_norm",
    ),
    "phi": Family(_GROUPED, norm="model.final_layernorm"),
    "phi3": Family(_GROUPED),
    "qwen2": Family(
        {
            **_GROUPED,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
        }
    ),
    "qwen3": Family({**_GROUPED, "head_dim": 8, "max_window_layers": DEPTH}),
    "qwen3_moe": Family({**_GROUPED, **_EXPERTS, "head_dim": 8, "num_experts": 4, "mlp_only_layers": [0, 2]}),
    "smollm3": Family({**_GROUPED, "no_rope_layer_interval": 2}),
    "stablelm": Family(_GROUPED),
    "starcoder2": Family(_GROUPED),
}


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """A model in evaluation mode with every parameter random, the same in every process."""
    torch.manual_seed(0)
    fields = FAMILIES[kind].fields if kind in FAMILIES else {}
    return randomised(
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**fields, **changes}), dtype=torch.float32)
    )
