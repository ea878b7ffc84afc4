"""The head of a causal language model: from hidden states to logits to losses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune.arch.structure import block_matrices, block_modules

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel

    from inheritune.losses.functional import Form


@dataclass(frozen=True)
class Head:
    """A model in two parts: `base` gives the last hidden states, and logits are `linear(hidden * scale)`.

    Without `linear` the model cannot be split: `base` is the whole model, and its logits take the place of hidden
    states, so that D is V.
    """

    base: "torch.nn.Module"
    linear: "torch.nn.Linear | None" = None
    scale: float = 1.0

    def outputs(self, **inputs: Any) -> Any:
        """What `base` returns for these inputs, without a cache."""
        return self.base(**inputs, use_cache=False)

    def states(self, outputs: Any) -> "torch.Tensor":
        """The hidden states (B, T, D) that the linear layer takes, of what `outputs` returned."""
        if self.linear is None:
            logits: torch.Tensor = outputs.logits
            return logits
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden if self.scale == 1.0 else hidden * self.scale

    def logits(self, states_ND: "torch.Tensor") -> "torch.Tensor":
        """The logits (N, V) of hidden states."""
        return states_ND if self.linear is None else self.linear(states_ND)

    def form(self, tokens: int, alone: bool = True) -> "Form":
        """How a training computes the loss of `tokens` tokens: "chunked" where all logits would take too much memory.

        `alone`: the cross-entropy is the only loss on logits, and needs torch's own chunked form.
        """
        from inheritune.losses.functional import are_large, has_chunked_form

        if self.linear is None or not (has_chunked_form() or not alone):
            return "whole"
        return "chunked" if are_large(tokens, self.linear.out_features) else "whole"

    def cross_entropy(self, states_ND: "torch.Tensor", targets_N: "torch.Tensor", form: "Form") -> "torch.Tensor":
        """The sum of the cross-entropies of all tokens whose targets count, in nats."""
        from inheritune.losses.functional import linear_cross_entropy, token_losses

        if self.linear is None:
            return token_losses(states_ND[None], targets_N[None]).sum()
        return linear_cross_entropy(states_ND, self.linear.weight, self.linear.bias, targets_N, form)

    def token_losses(self, states_BTD: "torch.Tensor", targets_BT: "torch.Tensor") -> "torch.Tensor":
        """The cross-entropy of each token (B, T) in nats, without holding all logits where the model can be split."""
        from inheritune.losses.functional import token_losses
        from inheritune.losses.streaming import linear_token_losses

        if self.linear is None:
            return token_losses(states_BTD, targets_BT)
        states_ND, targets_N = states_BTD.flatten(0, 1), targets_BT.flatten()
        return linear_token_losses(states_ND, self.linear.weight, self.linear.bias, targets_N).view(targets_BT.shape)


def logits_width(model: "PreTrainedModel") -> int:
    """Entries of a model's logits: its vocabulary, with what pads it."""
    head = model.get_output_embeddings()
    return int(head.weight.shape[0]) if hasattr(head, "weight") else int(model.config.vocab_size)


def split_head(model: "PreTrainedModel") -> Head:
    """The two parts of a model on a device; the whole model where it cannot be split.

    Capped logits (Gemma 2) and heads that are no linear layer cannot be split. A model is split only if both ways give
    the same logits on random tokens, bit for bit.
    """
    import torch

    whole, assumed, linear = Head(model), assumed_head(model), plain_linear(model)
    if linear is None:
        return whole
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(0, vocabulary, (2, 8), generator=generator).to(linear.weight.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = model(input_ids=tokens_BT, use_cache=False).logits.float()
            outputs = assumed.outputs(input_ids=tokens_BT)
            for scale in _scales(model):
                head = Head(assumed.base, linear, scale)
                logits = head.logits(head.states(outputs)).float()
                if logits.shape != expected.shape:
                    continue
                # Exactly, as a cap hardly shows while logits are small. A scale may be applied before or after the
                # product, which changes the last bits.
                near = 0.0 if scale == 1.0 else 1e-5 * expected.abs().max().item()
                if torch.allclose(logits, expected, rtol=0.0, atol=near):  # -inf is close to itself
                    return head
    except (TypeError, AttributeError, RuntimeError, ValueError):  # a base that takes other arguments
        return whole
    finally:
        model.train(training)
    return whole


def parts_of(
    model: "PreTrainedModel", once: "Callable[[Callable[[], tuple[bool, float]]], tuple[bool, float]] | None" = None
) -> dict[str, Any]:
    """The fields of `training.Job` that depend on the architecture: blocks, matrices, head, vocabulary.

    `once` does what only the process with the weights can do, and gives its result to all (`Runtime.on_rank0`).
    """

    def tried() -> tuple[bool, float]:
        head = split_head(model)
        return head.linear is not None, head.scale

    is_split, scale = tried() if once is None else once(tried)
    return {
        "blocks": block_modules(model),
        "matrices": block_matrices(model),
        "head": Head(assumed_head(model).base, plain_linear(model), scale) if is_split else Head(model),
        "vocabulary": model.get_input_embeddings().weight.shape[0],
    }


def assumed_head(model: "PreTrainedModel") -> Head:
    """The head by the model's structure alone, for models without values."""
    import torch

    base, linear = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if base is None or base is model or type(linear) is not torch.nn.Linear:
        return Head(model)
    return Head(base, linear)


def plain_linear(model: "PreTrainedModel") -> "torch.nn.Linear | None":
    """The linear layer of a model's head, by structure and config alone; None where the config caps its logits, too."""
    return None if getattr(model.config, "final_logit_softcapping", None) else assumed_head(model).linear


def _scales(model: "PreTrainedModel") -> list[float]:
    """The possible scales: 1, and the factors of configs (Cohere multiplies logits, Granite divides them).

    Only 1 where the head has a bias: while the bias is zero, nothing shows whether it is scaled as well.
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
