"""What a recipe's `recovery` decides, from the recipe, the reference's config, the size of the text, and the memory."""

import math
from dataclasses import dataclass
from typing import Any

from inheritune.arch import build_skeleton, parameter_count
from inheritune.errors import InputError
from inheritune.experiment.plan import Models, plan_rounds
from inheritune.inheritance import draft_target, refitted_matrices
from inheritune.planner.devices import USABLE, processor
from inheritune.recipe import Recipe, RecoveryKind, check, parse_size
from inheritune.report import many, short
from inheritune.results import RecoveryDecision
from inheritune.runtime import Runtime

# Measured on SmolLM2-135M and a dictionary (docs/recovery.md has the tables, and what was tried besides).
_MOST_EPOCHS = 8
_EPOCHS_POWER = 0.35  # epochs = (parameters of the target / tokens of text) ** this, at most the above
_STEPS = 1000  # that a training should have at least
_MOST_SEQUENCES = 64  # of a batch
_RATE_TIMES_WIDTH = 0.35  # learning rate x hidden size
_REFIT_TOKENS = 8192
_REFIT_STEPS = 320  # of a training that gains from refitted blocks; a longer one ends no better, or worse
_HIDDEN_STATES = 10.0  # their weight beside the KL
_TRAINED_BYTES, _READ_BYTES = 16, 4  # for each parameter: weights, gradients and two running means; weights alone


@dataclass(frozen=True)
class Facts:
    """What decides besides the recipe: training tokens (None: not known yet) and bytes of memory that may be used."""

    tokens: int | None
    memory: float


def decide_recovery(recipe: Recipe, models: Models, facts: Facts) -> RecoveryDecision:
    """Decide the keys in `recovery.decides`. Raises InputError for a recipe that cannot be run whatever is decided."""
    return _Decision(recipe, models, facts).result()


def usable_memory(runtime: Runtime) -> float:
    """Bytes that trainings may use on the devices of all processes; sharded, they share one model."""
    if runtime.device == "cuda":
        import torch

        return USABLE * torch.cuda.mem_get_info()[1] * runtime.world_size
    machine = processor()
    return machine.memory * machine.usable


def provisional(
    recipe: Recipe, models: Models, memory: float, tokens: int | None
) -> tuple[Recipe, RecoveryDecision | None]:  # fmt: skip
    """The recipe with what is decided before the text is read, for checks and prices, and the decision, if any.

    `tokens` of training text are known or estimated; None where they are not.
    """
    if not recipe.recovery.decides:
        return recipe, None
    decision = decide_recovery(recipe, models, Facts(tokens, memory))
    return with_decision(recipe, decision), decision


def with_decision(recipe: Recipe, decision: RecoveryDecision) -> Recipe:
    """The recipe with the settings that were decided; nothing is left to decide."""
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    tree["recovery"] = {"kind": decision.kind, "decides": []}
    for key, value in decision.settings.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return check(Recipe, tree, "recovery")


class _Decision:
    """One decision under way."""

    def __init__(self, recipe: Recipe, models: Models, facts: Facts) -> None:
        self.recipe, self.facts, self.reference = recipe, facts, models.reference
        self.models = models
        self.asked = recipe.recovery.decides
        self.reasons: list[str] = []
        self.settings: dict[str, Any] = {}
        inherit, stages = plan_rounds(recipe, models)
        self.inherit, self.stages = inherit, stages
        trust = recipe.reference.trust_remote_code
        self.large = parameter_count(build_skeleton(self.reference, trust))
        target = models.target(self.reference, stages[0])
        self.small = parameter_count(build_skeleton(target, trust))
        self.hidden_size = int(getattr(target, "hidden_size", 0) or 0)

    def result(self) -> RecoveryDecision:
        kind = self.recipe.recovery.kind
        if not self.asked:
            return RecoveryDecision(kind=kind, settings={}, reasons=["The recipe has all settings itself."])
        if kind == "auto":
            kind = self._by_what_is_scarce()
        if kind == "distilled" and not self._teacher_fits():
            kind = "plain"
        if kind == "distilled":
            self._teach()
        self._lengths(kind)
        self._refit()
        if self.recipe.grow is not None and self.recipe.grow.until != "max_layers":
            self._set("grow.stop_early", True)
        return RecoveryDecision(kind=kind, settings=self.settings, reasons=self.reasons)

    def _by_what_is_scarce(self) -> RecoveryKind:
        """Distilled where text is scarce, plain where compute is."""
        length, tokens = self.recipe.train.length, self.facts.tokens
        if "train.length" in self.asked:
            self.reasons.append("No length is asked for, so the text is what is scarce.")
            return "distilled"
        if length.unit == "epochs":
            share = length.amount
        else:
            asked = self.recipe.train.tokens_asked(0)
            share = 0.0 if tokens is None else asked / tokens
        if share >= 1:
            self.reasons.append(f"The training sees all of the text ({length}), so the text is what is scarce.")
            return "distilled"
        part = f"The training sees only a part of the text ({length})"
        self.reasons.append(f"{part}, so more of it helps more than a teacher.")
        return "plain"

    def _teacher_fits(self) -> bool:
        needed = _TRAINED_BYTES * self.small + _READ_BYTES * self.large
        if needed <= self.facts.memory:
            return True
        self.reasons.append(
            f"There is no teacher: with the target it takes {short(needed)}B of memory, and"
            f" {short(self.facts.memory)}B may be used."
        )
        return False

    def _set(self, key: str, value: Any, reason: str = "") -> None:
        """Decide a key, if it is left to decide."""
        if key in self.asked:
            self.settings[key] = value
            if reason:
                self.reasons.append(reason)

    def _teach(self) -> None:
        """A tuned reference as teacher."""
        if self.recipe.reference.path is not None:
            self._tune()
        has_places = "hidden" not in self.inherit.widths and self.inherit.choose != "stacked"
        hidden = {"weight": _HIDDEN_STATES} if has_places else None
        self._set(
            "train.distillation", {"student": 0.0, "hidden_states": hidden},
            f"The target, with {self.small / self.large:.0%} of the reference's parameters, learns its"
            f" distribution{' and hidden states' if has_places else ''}.",
        )  # fmt: skip

    def _tune(self) -> None:
        needed = _TRAINED_BYTES * self.large
        if needed <= self.facts.memory:
            settings = {"length": "1 epochs", "batch": self._batch(self.facts.tokens)}
            why = "The reference is tuned on the text first, up to where held-out text says to stop."
            self._set("reference.tune", settings, why)
        elif "reference.tune" in self.asked:
            self.reasons.append(
                f"The reference is not tuned: training it takes {short(needed)}B of memory, and"
                f" {short(self.facts.memory)}B may be used."
            )

    def _lengths(self, kind: str) -> None:
        """Epochs, batch and learning rate."""
        tokens, epochs = self.facts.tokens, 1
        if kind == "distilled" and tokens is not None:
            epochs = min(_MOST_EPOCHS, max(1, round((self.small / tokens) ** _EPOCHS_POWER)))
        why = f"The training takes {many(epochs, 'epoch')}"
        if tokens is not None:
            why += f" of {short(tokens)} tokens"
        elif kind == "distilled":
            why += f", and up to {_MOST_EPOCHS} where the text turns out to be small"
        self._set("train.length", f"{epochs} epochs", f"{why}.")
        self._set("train.batch", self._batch(self._total()))
        if self.hidden_size:
            self._set("train.optimizer.learning_rate", float(f"{_RATE_TIMES_WIDTH / self.hidden_size:.1g}"))

    def _total(self) -> float | None:
        """The tokens of the training, as decided or asked for; None where the text or the batch must be known first."""
        decided = self.settings.get("train.length")
        length = self.recipe.train.length if decided is None else parse_size(decided, ("epochs",))
        if length.unit == "tokens":
            return length.amount
        if length.unit == "epochs" and self.facts.tokens is not None:
            return length.amount * self.facts.tokens
        return None

    def _batch(self, total: float | None) -> str:
        """A batch with which a training on so many tokens has about a thousand steps."""
        train = self.recipe.train
        if total is None:
            return "8 sequences"
        sequences = math.floor(total / _STEPS / train.sequence_length)
        sequences = 2 ** int(math.log2(max(1, min(_MOST_SEQUENCES, sequences))))
        return f"{sequences if train.micro_batch == 'auto' else max(sequences, train.micro_batch)} sequences"

    def _steps(self) -> float | None:
        """The steps of the training, as decided or asked for; None where they are not known yet."""
        train, total = self.recipe.train, self._total()
        if "train.length" not in self.settings and train.length.unit == "steps":
            return train.length.amount
        batch = self.settings.get("train.batch")
        sequences = train.batch_sequences if batch is None else parse_size(batch, ("sequences",)).count
        return None if total is None else total / sequences / train.sequence_length

    def _refit(self) -> None:
        """The kept blocks are refitted where the training is short, and where that is possible."""
        inherit, grow, steps = self.recipe.inherit, self.recipe.grow, self._steps()
        if inherit.submodules != "all" or inherit.choose == "stacked":
            return
        if "inherit.refit" not in self.asked or (grow is not None and grow.start == "trained"):
            return
        if steps is None:  # decided when the text is prepared
            return
        if steps > _REFIT_STEPS:
            self.reasons.append(f"Blocks are not refitted: that helps trainings of up to {_REFIT_STEPS} steps.")
            return
        try:
            skeleton = build_skeleton(self.reference, self.models.trust)
            names = refitted_matrices(draft_target(skeleton, self.stages[0].spec(self.reference)))
        except InputError as error:
            self.reasons.append(f"Blocks are not refitted: {error.problems[0].what}.")
            return
        if any(names):
            tokens = _REFIT_TOKENS if self.facts.tokens is None else min(_REFIT_TOKENS, self.facts.tokens)
            why = f"Kept blocks are refitted on {tokens:,} tokens to stand in for the dropped ones."
            self._set("inherit.refit", f"{tokens} tokens", why)
