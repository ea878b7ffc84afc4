"""The cross-entropy of the text: what every training minimises."""

from typing import TYPE_CHECKING

from inheritune.losses.base import LogitsLoss

if TYPE_CHECKING:
    import torch

    from inheritune.losses.functional import Distribution


class CrossEntropy(LogitsLoss):
    """Next-token cross-entropy in nats."""

    name = "cross_entropy"

    def of_logits(
        self, logits_NV: "torch.Tensor", targets_N: "torch.Tensor", teacher: "Distribution | None"
    ) -> "torch.Tensor":
        """The sum over the targets that count."""
        from torch.nn import functional

        return functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
