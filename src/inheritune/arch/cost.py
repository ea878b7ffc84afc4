"""Parameters and FLOPs, by one convention everywhere."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# The names in configs of the number of experts that a token is sent to.
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts", "moe_k")


def parameter_count(model: "PreTrainedModel") -> int:
    """All parameters, a tied tensor counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_flops_per_token(model: "PreTrainedModel", sequence_length: int) -> int:
    """FLOPs of forward and backward per token: see `flops_per_token`. `model` may be on the meta device."""
    shares = shares_of_tokens(model)
    active = sum(parameter.numel() * shares[id(parameter)] for parameter in model.parameters())
    return flops_per_token(model.config, active, sequence_length)


def flops_per_token(config: "PretrainedConfig", active: float, sequence_length: int) -> int:
    """FLOPs of forward and backward per token (PaLM, appendix B): 6 N + 12 L H Q T.

    N are the `active` parameters, with which a token is multiplied: no input embeddings, the head once, and as many
    experts as a token is sent to. There are L blocks, H heads of size Q, and sequences of T tokens; the causal half is
    not deducted. An evaluation costs a third.
    """
    if getattr(config, "is_heterogeneous", False):  # blocks of different widths
        width = sum(_attention_width(block) for block in config.per_layer_config)
    else:
        width = config.num_hidden_layers * _attention_width(config)
    return round(6 * active) + 12 * width * sequence_length


def _attention_width(config: "PretrainedConfig") -> int:
    """The number of a block's attention heads times their size, by the config; 0 without heads."""
    heads = getattr(config, "num_attention_heads", 0) or 0
    size: int = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    return heads * size


def shares_of_tokens(model: "PreTrainedModel") -> dict[int, float]:
    """For each parameter, by its id, the share of the tokens that it is multiplied with.

    0 for embeddings, which are looked up, unless they are the head too; for experts the number that a token is sent to
    divided by the number of experts, which is the mean however they are chosen; 1 for all else.
    """
    from torch import nn

    shares = {id(parameter): 1.0 for parameter in model.parameters()}
    parts = (model.config, getattr(model.config, "ffn_config", None))
    counts = (getattr(part, name, None) for part in parts for name in _EXPERTS_PER_TOKEN)
    chosen = next((count for count in counts if isinstance(count, int)), None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            shares[id(module.weight)] = 0.0
        elif chosen is not None and (count := _expert_count(name, module)):
            shares |= {id(parameter): min(1.0, chosen / count) for parameter in module.parameters()}
    head = model.get_output_embeddings()
    if head is not None:
        shares[id(head.weight)] = 1.0
    return shares


def _expert_count(name: str, module: Any) -> int:
    """How many experts a module has: a list of modules, or tensors with a matrix for each; 0 for other modules."""
    from torch import nn

    if isinstance(module, nn.ModuleList):
        return len(module) if name.rpartition(".")[2] == "experts" else 0
    kind = type(module).__name__
    if "Experts" not in kind or "Shared" in kind:
        return 0
    return next((tensor.shape[0] for tensor in module.parameters(recurse=False) if tensor.dim() == 3), 0)
