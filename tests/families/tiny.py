"""Tiny configs of any family, by finding the fields that mean sizes in the defaults of its config class."""

from typing import Any

from forward import VOCABULARY
from transformers import CONFIG_MAPPING, PretrainedConfig

DEPTH = 6
POSITIONS = 64
WINDOW = 6  # shorter than the sequences of the tests

_SIZES: list[tuple[int, str]] = [
    (DEPTH, "num_hidden_layers n_layer n_layers num_layers decoder_layers num_blocks"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length"),
    (
        32,
        "hidden_size n_embd d_model embedding_dim emb_dim embedding_size word_embed_proj_dim lru_width "
        "input_embedding_size output_embedding_size attention_hidden_size_ ple_embed_dim",
    ),
    (
        48,
        "intermediate_size ffn_dim n_inner dff dim_ff ffn_hidden_size d_inner decoder_ffn_dim "
        "feed_forward_size intermediate_size_mlp dense_intermediate_size prefix_dense_intermediate_size",
    ),
    (
        16,
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "expert_ffn_hidden_size shared_experts_intermediate_size moe_shared_expert_intermediate_size "
        "mamba_d_state router_hidden_size state_size ssm_state_size mamba_chunk_size chunk_size",
    ),
    (
        4,
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads num_experts "
        "n_routed_experts num_local_experts moe_num_experts swa_num_attention_heads linear_num_value_heads "
        "linear_num_heads qk_rope_head_dim index_n_heads num_mem_heads mamba_n_heads mamba_num_heads "
        "adapter_rank laurel_rank rotary_dim gated_norm_rank keep_window_size d_rel hc_lowrank index_topk "
        "n_mamba_heads",
    ),
    (
        8,
        "head_dim linear_key_head_dim linear_value_head_dim linear_head_dim kv_lora_rank q_lora_rank "
        "v_head_dim qk_nope_head_dim index_head_dim kv_channels attention_head_size dim_head d_head "
        "swa_head_dim hidden_size_per_layer_input o_lora_rank rel_extent mamba_head_dim mamba_d_head "
        "time_step_rank mamba_dt_rank query_pre_attn_scalar mamba_headdim",
    ),
    (
        2,
        "num_key_value_heads swa_num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k "
        "num_experts_per_token linear_num_key_heads zero_expert_num top_k_experts o_groups",
    ),
    (WINDOW, "sliding_window sliding_window_size attention_window_size window_size attention_chunk_size"),
]
_SIZE = {name: size for size, names in _SIZES for name in names.split()}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_NONE_TOO = {
    "num_key_value_heads",
    "num_kv_heads",
    "n_routed_experts",
    "num_experts_per_tok",
    "head_dim",
    "sliding_window",
}


def tiny_fields(kind: str) -> dict[str, Any]:
    """Fields for `CONFIG_MAPPING[kind]` of a model of `DEPTH` blocks in which every kind of block occurs.

    Lists with an entry a block are made of the kinds that the default has, in turn.
    """
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    legal = config_class.__dataclass_fields__.keys() | set(config_class.attribute_map.values())
    depth = getattr(default, "num_hidden_layers", 0)
    fields: dict[str, Any] = {}
    for name, value in default.to_dict().items():
        if name not in legal:
            continue
        if name in _TOKENS:
            fields[name] = _TOKENS[name]
        elif name in _SIZE and ((value is None and name in _NONE_TOO) or (type(value) is int and value > 0)):
            fields[name] = _SIZE[name] if _SIZE[name] in (DEPTH, VOCABULARY) else min(_SIZE[name], value or _SIZE[name])
        elif isinstance(value, list) and len(value) == depth and not name.endswith("_token_id"):
            kinds = sorted(dict.fromkeys(value), key=lambda kind: "full" not in str(kind))  # hybrids need attention
            fields[name] = [kinds[place % len(kinds)] for place in range(DEPTH)]
    if "kv_lora_rank" in fields:  # multi-head latent attention has no groups
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    return fields


def tiny_config(kind: str, **changes: Any) -> PretrainedConfig:
    """A tiny config of a family, with a table's `changes` on top of what is found by name."""
    return CONFIG_MAPPING[kind](**{**tiny_fields(kind), **changes})
