"""What transformers 4 makes of the files written here, by model type. Measured by tests/compat (`make compat`)."""

from collections.abc import Callable, Mapping
from typing import Any

TRIED = ("4.57.6", "5.23.0")
"""The versions of transformers that were tried: the one that reads, and the one that wrote and is compared with."""

_READ = """
    arcee aria_text bamba bert bert-generation big_bird biogpt bitnet bloom camembert codegen cohere cohere2 ctrl
    data2vec-text deepseek_v2 deepseek_v3 diffllama doge dots1 electra ernie ernie4_5 ernie4_5_moe exaone4 falcon
    falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text gemma3n_text git glm glm4 glm4_moe gpt-sw3 gpt2
    gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granitemoe granitemoehybrid granitemoeshared
    helium hunyuan_v1_dense hunyuan_v1_moe jamba jetmoe lfm2 llama llama4_text mamba mamba2 megatron-bert minimax
    ministral mistral mixtral moshi mpt nemotron olmo olmo2 olmo3 olmoe openai-gpt opt persimmon phi phi3 phimoe
    qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss
    smollm3 stablelm starcoder2 trocr vaultgemma xglm xlm-roberta xlm-roberta-xl xlnet xmod zamba
"""
READ_BY_4 = frozenset(_READ.split())
"""Model types that 4.57 loads without missing or left over tensors, and with the logits that version 5 gives."""

TOKENIZERS_READ_BY_4 = ("CodeLlamaTokenizer", "CohereTokenizer", "OpenAIGPTTokenizer", "PreTrainedTokenizerFast")
"""Classes of tokenizers, as they are written, that give the same ids in 4.57."""

Fields = Mapping[str, Any]

UNREAD_WHERE: dict[str, tuple[Callable[[Fields], Any], str]] = {
    "ernie4_5_moe": (
        lambda fields: fields.get("moe_layer_start_index", 0) >= fields["num_hidden_layers"],
        "transformers 4 does not load ernie4_5_moe without any block that has experts",
    ),
    "gemma3n_text": (
        lambda fields: fields.get("num_kv_shared_layers"),
        "transformers 4 wants key and value matrices in blocks that take keys and values from others",
    ),
    "qwen2_moe": (
        lambda fields: fields.get("use_sliding_window"),
        "transformers 4 has sliding windows in all blocks of qwen2_moe or in none",
    ),
}
"""Configs of a type in `READ_BY_4` that 4.57 does not read, and why."""

EAGER_IN_4 = ("gemma2", "vaultgemma")
"""Types whose capped attention scores 4.57 computes with attn_implementation="eager" alone."""

RENAMED: dict[str, dict[str, str]] = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""Fields of version 5, and their names in 4.57."""

CHANGED_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "granitemoehybrid": {"layer_types": {"linear_attention": "mamba", "full_attention": "attention"}},
    "zamba": {"layers_block_type": {"linear_attention": "mamba"}},
}
"""Fields with an entry a block, whose words version 5 has changed; it reads the older ones too."""

BASE = {"gpt_neox": "rotary_emb_base", "gpt_neox_japanese": "rotary_emb_base"}
"""The name of rotary embeddings' base in 4.57, where it is not rope_theta."""

SHARE = {"gpt_neox": "rotary_pct", "gpt_neox_japanese": "rotary_pct"}
"""The name of the rotated share of a head in 4.57, where it is not partial_rotary_factor."""

BASE_BY_KIND = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "gemma3n_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "olmo3": {"full_attention": "rope_theta", "sliding_attention": "rope_theta"},
}
"""Where kinds of blocks have rotary embeddings of their own: the name of each base. Only the first can be scaled."""

SCALINGS = ("linear", "dynamic", "yarn", "longrope", "llama3")
"""The types of scaled rotary embeddings that 4.57 has."""

SCALINGS_OF = {
    "hunyuan_v1_dense": ("linear", "yarn", "longrope", "llama3"),
    "hunyuan_v1_moe": ("linear", "yarn", "longrope", "llama3"),
    "llama4_text": ("llama3",),
    "nemotron": (),
    "olmo": ("linear", "dynamic"),
    "olmo2": ("linear", "dynamic"),
    "phi3": ("longrope",),
    "phimoe": (),
}
"""Those that 4.57 computes as version 5 does, of model types where it is not all."""

EXACT_SCALING = {
    "olmo": {"factor"},
    "olmo2": {"factor"},
    "phi3": {"short_factor", "long_factor"},
}
"""Model types whose rope_scaling 4.57 refuses with other fields than `type` and these."""
