"""A causal language model in two parts: what gives the last hidden states, and the linear head on them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Head:
    """Logits are `hidden @ weight.T + bias`, where `hidden` is `base`'s last hidden state times `scale`."""

    base: "torch.nn.Module"
    linear: "torch.nn.Linear"
    scale: float = 1.0


def logits_width(model: "PreTrainedModel") -> int:
    """Entries of a model's logits: its vocabulary, with what pads it."""
    head = model.get_output_embeddings()
    return int(head.weight.shape[0]) if hasattr(head, "weight") else int(model.config.vocab_size)


def split_head(model: "PreTrainedModel") -> Head | None:
    """The two parts of a model on a device, found by what they compute; None where the head does more than that.

    With them a loss need not hold all logits at once. Logits that are capped (Gemma 2), or a head that is no linear
    layer, cannot be split. A model is taken apart only if both ways give the same logits on random tokens, bit for bit.
    """
    import torch

    base, linear = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if base is None or base is model or type(linear) is not torch.nn.Linear:
        return None
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(0, vocabulary, (2, 8), generator=generator).to(linear.weight.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = model(input_ids=tokens_BT, use_cache=False).logits.float()
            hidden = base(input_ids=tokens_BT, use_cache=False).last_hidden_state
            for scale in _scales(model):
                found = linear(hidden * scale if scale != 1.0 else hidden).float()
                if found.shape != expected.shape:
                    continue
                # to the bit, as a cap hardly shows while logits are small; a scale may stand before or behind the
                # product, which costs the last bits
                near = 0.0 if scale == 1.0 else 1e-5 * expected.abs().max().item()
                if torch.allclose(found, expected, rtol=0.0, atol=near):  # -inf is close to itself
                    return Head(base, linear, scale)
    except (TypeError, AttributeError, RuntimeError, ValueError):  # a base that is called otherwise
        return None
    finally:
        model.train(training)
    return None


def _scales(model: "PreTrainedModel") -> list[float]:
    """One, and what configs say that logits are multiplied with (Cohere) or divided by (Granite).

    One alone where the head has a bias: while that is zero, nothing shows whether it is scaled as well.
    """
    config = model.config
    factors = [1.0]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        return factors
    if getattr(config, "logit_scale", None):
        factors.append(float(config.logit_scale))
    if getattr(config, "logits_scaling", None):
        factors.append(1.0 / float(config.logits_scaling))
    return factors
