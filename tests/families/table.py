"""What the general shrinker cannot know, by model type: sizes that must fit each other, and what makes blocks differ."""

from typing import Any

_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2, "mamba_n_groups": 1}
_WINDOWED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3}
_MIXED = ["dense", "sparse", "sparse", "dense", "sparse", "dense"]
_LENT = {"indexer_types": ["full", "full", "full", "shared", "shared", "shared"]}
_HYBRID = {"layers_block_type": ["hybrid", "hybrid", "linear_attention", "hybrid", "linear_attention", "hybrid"]}
_GROUPS = {"n_group": 1, "topk_group": 1}

CHANGES: dict[str, dict[str, Any]] = {
    "axk1": _GROUPS,
    "bailing_hybrid": {"num_experts": 4, **_GROUPS},
    "bamba": {**_MAMBA, "attn_layer_indices": [0, 2, 3, 5]},
    "beam": _GROUPS,
    "big_bird": {"attention_type": "original_full"},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        "layer_types": ["full_attention", "sliding_attention"] * 3,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "deepseek_v2": {"first_k_dense_replace": 2},
    "deepseek_v3": _GROUPS,
    "deepseek_v32": {**_GROUPS, "mlp_layer_types": _MIXED},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 2, **_WINDOWED},
    "dots3_note_text": {
        "per_layer_config": {
            str(i): {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 16} for i in (1, 3, 5)
        },
        "head_dim": 12,
        "index_topk": 12,  # all tokens of a generation: with a cache ties fall otherwise, in whole models as well
        "layer_types": ["indexed_attention", "sliding_attention"] * 3,
    },
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 2},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 6,
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ],
    },
    "gemma4_text": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "full_attention",
        ],
        "num_kv_shared_layers": 2,
        "global_head_dim": 16,
    },
    "gemma4_unified_text": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "full_attention",
        ],
        "global_head_dim": 16,
    },
    "glm4_moe": {"first_k_dense_replace": 2},
    "git": {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        }
    },
    "glm_moe_dsa": {**_LENT, "index_topk": 8},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {**_MAMBA},
    "hy_v4": _LENT,
    "inkling2_text": {"n_layers_per_attn_res_block": 2},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 0, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"] * 3, "num_dense_layers": 2},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "minimax": {"layer_types": ["linear_attention", "full_attention"] * 3},
    "mistral": {"sliding_window": 6},
    "nemotron_h": {
        "layers_block_type": ["full_attention", "linear_attention", "moe", "mlp", "full_attention", "linear_attention"],
        "n_groups": 1,
    },
    "phi4_multimodal": {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "crop_size": 8,
        },
        "audio_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "input_size": 16,
            "nemo_conv_channels": 16,
            "nemo_final_size": 16,
        },
    },
    "qwen2": _WINDOWED,
    "qwen2_moe": {**_WINDOWED, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "qwen3": _WINDOWED,
    "qwen3_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "qwen3_next": {"mlp_only_layers": [1, 3]},
    "qwen4_exp_text": {
        "layer_types": ["indexed_attention", "linear_attention", "linear_attention"] * 2,
        "ple_layer_ids": [2, 5],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "heads_per_ngram": 1,
        "ngram_vocab_size_base": 50,
        "split_ngram_parts": 1,
    },
    "recurrent_gemma": {"block_types": ["attention", "attention", "recurrent"]},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"] * 3,
        "hidden_size": 32,
        "num_buckets": 4,
        "hash_seed": 1,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 9,
        "shape_vocab_size": 9,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "rwkv": {"rescale_every": 0},  # what a target has; see inheritune.arch.config
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": _HYBRID,
    "zamba2": _HYBRID,
    "youtu": {"pad_token_id": None},  # transformers zeroes the padding row whenever it loads
}

# Blocks that hand on more than hidden states, each of which a skipped block must hand on, too.
CARRIERS = {"zaya"}

# Models that note what blocks were given, or whose blocks give other things than they take: a prefix is cut out of the
# list of blocks instead of having the blocks after it hand on what they got.
CUT = {"inkling2_text", "reformer"}

# Encoders' classes that are decoders when the config says so.
DECODERS = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "reformer", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip

# Selections that are refused though the family is supported, and a part of the reason.
_NOT_PREFIXES = ((0, 2, 5), (1, 2, 4), (0, 3, 5))
REFUSED: dict[str, dict[tuple[int, ...], str]] = {
    "beam": dict.fromkeys(_NOT_PREFIXES, "residual_add_idx"),
    "diffllama": dict.fromkeys(_NOT_PREFIXES, "lambda_init"),
    "gemma3n_text": {(0, 2, 5): "uses what block 3 has computed"},
    "gemma4_text": {(0, 3, 5): "uses what block 2 has computed"},
    "glm_moe_dsa": {(0, 3, 5): "uses what block 2 has computed"},
    "hy_v4": {(0, 3, 5): "uses what block 2 has computed"},
    "inkling2_text": {(0, 2, 5): "is_block_boundary", (1, 2, 4): "attention_input", (0, 3, 5): "is_block_boundary"},
    "jamba": {(1, 2, 4): "none of the 3 blocks chosen has attention", (0, 3, 5): "no expert_layer_period"},
    "minimax": {(0,): "none of the 1 blocks chosen has attention"},
    "modernbert-decoder": {(1, 2, 4): "attn_norm is Identity"},
    "olmo_hybrid": {(0,): "at least one 'linear_attention' layer"},
    "qwen4_exp_text": {(1, 2, 4): "none of the 3 blocks chosen has attention"},
    "reformer": dict.fromkeys(_NOT_PREFIXES, "depends on a block's place"),
    "rwkv": {(0,): "fewer than 2 blocks", (1, 2, 4): "pre_ln"},
    "zamba": {(0,): "tie_weights_keys", (1, 2, 4): "tie_weights_keys"},
    "zamba2": dict.fromkeys(_NOT_PREFIXES, "hybrid_layer_ids"),
    "zaya": {(1, 2, 4): "use_eda"},
}
