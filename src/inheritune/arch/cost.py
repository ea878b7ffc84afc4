"""Parameters and FLOPs, by one convention everywhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def parameter_count(model: "PreTrainedModel") -> int:
    """All parameters, a tied tensor counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_flops_per_token(model: "PreTrainedModel", sequence_length: int) -> int:
    """FLOPs of forward and backward per token (PaLM, appendix B): 6 N + 12 L H Q T.

    N are the parameters without the input embeddings, the head counted once; L blocks, H heads of size Q, sequences
    of T tokens; the causal half is not deducted. An evaluation costs a third.
    """
    from torch import nn

    config = model.config
    embeddings = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    tied = 0 if head is None else embeddings.get(id(head.weight), 0)
    matrices = parameter_count(model) - sum(embeddings.values()) + tied
    heads = getattr(config, "num_attention_heads", 0) or 0
    head_size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    per_token: int = 6 * matrices + 12 * config.num_hidden_layers * heads * head_size * sequence_length
    return per_token
