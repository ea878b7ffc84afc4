"""The recipe's `recovery`: how quality is got back, and which keys it decides about."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from inheritune.settings.part import Part

RecoveryKind = Literal["auto", "distilled", "plain", "paper"]
DECIDED = (
    "reference.tune", "inherit.refit", "train.length", "train.batch", "train.optimizer.learning_rate",
    "train.distillation", "grow.stop_early",
)  # fmt: skip
"""Keys that a recovery decides about where the recipe does not have them."""


class Recovery(Part):
    """How the small model gets its quality back. `recovery: paper` is short for `recovery: {kind: paper}`."""

    kind: RecoveryKind = "auto"
    """distilled: the reference is tuned on the text first. The target starts with its blocks, and learns its
    distribution and hidden states for several epochs. plain: blocks of the reference as it is, trained on the text
    alone. Both refit the blocks for short trainings. paper: as published, without any of this. auto: plain where the
    training sees less than the whole text, since more text then helps more than a teacher; else distilled. What the
    device has no memory for is not done. What is decided and why is printed, and kept in recovery.json."""
    decides: list[Literal[DECIDED]] = []  # type: ignore[valid-type]
    """The keys that are decided. Default: those of them that the recipe does not have; none with paper."""

    @model_validator(mode="after")
    def _paper_decides_nothing(self) -> Self:
        if self.kind == "paper" and self.decides:
            raise ValueError("decides: paper decides nothing; give another kind, or remove decides")
        return self


def with_recovery(tree: Any) -> Any:
    """A recipe, as it was written, with the keys that its recovery decides about listed in `recovery.decides`."""
    if not isinstance(tree, dict):
        return tree
    recovery = tree.get("recovery", {})
    recovery = {"kind": recovery} if isinstance(recovery, str) else recovery
    if not isinstance(recovery, dict):
        return tree  # pydantic says what is wrong with it
    kind = recovery.get("kind", "auto")
    tree = {**tree, "recovery": recovery}
    if "decides" not in recovery and kind != "paper":
        reference = tree.get("reference")
        is_given = isinstance(reference, str) or _value(reference, "path") is not None
        grows = "grow" not in tree or tree["grow"] is not None
        tunes = is_given and "reference-continued" not in (tree.get("controls") or ())  # it would be the same
        possible = {"reference.tune": tunes, "grow.stop_early": grows}
        missing = [key for key in DECIDED if possible.get(key, True) and not _has(tree, key.split("."))]
        tree["recovery"] = {**recovery, "decides": missing}
    train = tree.get("train", {})
    if kind != "paper" and isinstance(train, dict):
        tree["train"] = {"length": "1 epochs", **train}
    return tree


def _has(tree: Any, parts: list[str]) -> bool:
    """Whether a key was written, in mappings or in parts that were checked already."""
    first, *rest = parts
    if isinstance(tree, BaseModel):
        return first in tree.model_fields_set and (not rest or _has(getattr(tree, first), rest))
    return isinstance(tree, Mapping) and first in tree and (not rest or _has(tree[first], rest))


def _value(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, Mapping) else getattr(tree, key, None)
