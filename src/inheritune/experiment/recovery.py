"""What a recipe's `recovery` decides, from the recipe, the reference's config, the size of the text, and the memory."""

import math
from dataclasses import dataclass
from typing import Any

from inheritune.arch import build_skeleton, parameter_count
from inheritune.errors import InputError
from inheritune.experiment.plan import Models, plan_rounds
from inheritune.inheritance import draft_target, refitted_matrices
from inheritune.planner.devices import USABLE, processor
from inheritune.recipe import Recipe, RecoveryKind, check
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
    recipe: Recipe, models: Models, memory: float = math.inf
) -> tuple[Recipe, RecoveryDecision | None]:  # fmt: skip
    """The recipe with what is decided before the text is read, for checks and prices, and the decision, if any."""
    if not recipe.recovery.decides:
        return recipe, None
    size = recipe.data.size
    decision = decide_recovery(recipe, models, Facts(None if size is None else size.count, memory))
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
        self._refit()
        self._lengths(kind)
        if self.recipe.grow is not None and self.recipe.grow.until != "max_layers":
            self.settings["grow.stop_early"] = True
        settings = {key: value for key, value in self.settings.items() if key in self.asked}
        return RecoveryDecision(kind=kind, settings=settings, reasons=self.reasons)

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

    def _teach(self) -> None:
        """A tuned reference as teacher."""
        if self.recipe.reference.path is not None:
            needed = _TRAINED_BYTES * self.large
            if needed <= self.facts.memory:
                self.settings["reference.tune"] = {"length": "1 epochs", "batch": self._batch(1)}
                self.reasons.append("The reference is tuned on the text first, up to where held-out text says to stop.")
            else:
                self.reasons.append(
                    f"The reference is not tuned: training it takes {short(needed)}B of memory, and"
                    f" {short(self.facts.memory)}B may be used."
                )
        hidden = {"weight": _HIDDEN_STATES}
        has_places = self.inherit.width == "full" and self.inherit.choose != "stacked"
        self.settings["train.distillation"] = {"student": 0.0, "hidden_states": hidden if has_places else None}
        self.reasons.append(
            f"Its distribution{' and hidden states are' if has_places else ' is'} learnt: the target has"
            f" {self.small / self.large:.0%} of its parameters."
        )

    def _refit(self) -> None:
        """The kept blocks are refitted where that is possible."""
        inherit, grow = self.recipe.inherit, self.recipe.grow
        if inherit.submodules != "all" or inherit.width != "full" or inherit.choose == "stacked":
            return
        if grow is not None and grow.start == "trained":
            return
        try:
            skeleton = build_skeleton(self.reference, self.models.trust)
            names = refitted_matrices(draft_target(skeleton, self.stages[0].spec(self.reference)))
        except InputError as error:
            self.reasons.append(f"Blocks are not refitted: {error.problems[0].what}.")
            return
        if any(names):
            tokens = _REFIT_TOKENS if self.facts.tokens is None else min(_REFIT_TOKENS, self.facts.tokens)
            self.settings["inherit.refit"] = f"{tokens} tokens"
            self.reasons.append(f"Kept blocks are refitted on {tokens:,} tokens to stand in for the dropped ones.")

    def _lengths(self, kind: str) -> None:
        """Epochs, batch and learning rate."""
        tokens, epochs = self.facts.tokens, 1.0
        if kind == "distilled":
            epochs = float(_MOST_EPOCHS)
            if tokens is not None:
                epochs = float(min(_MOST_EPOCHS, max(1, round((self.small / tokens) ** _EPOCHS_POWER))))
        if "train.length" in self.asked:
            self.settings["train.length"] = f"{epochs:g} epochs"
            of = "" if tokens is None else f" of {short(tokens)} tokens"
            self.reasons.append(f"The training takes {many(int(epochs), 'epoch')}{of}.")
        else:
            length = self.recipe.train.length
            epochs = length.amount if length.unit == "epochs" else 0.0
        self.settings["train.batch"] = self._batch(epochs)
        if self.hidden_size:
            self.settings["train.optimizer.learning_rate"] = float(f"{_RATE_TIMES_WIDTH / self.hidden_size:.1g}")

    def _batch(self, epochs: float) -> str:
        """A batch with which a training of so many epochs has about a thousand steps; 0: the recipe's own length."""
        train, tokens = self.recipe.train, self.facts.tokens
        total: float | None = None if tokens is None else epochs * tokens
        if not epochs:
            total = train.tokens_asked(0) if train.length.unit == "tokens" else None
        if total is None:
            return "8 sequences"
        sequences = math.floor(total / _STEPS / train.sequence_length)
        sequences = 2 ** int(math.log2(max(1, min(_MOST_SEQUENCES, sequences))))
        return f"{sequences if train.micro_batch == 'auto' else max(sequences, train.micro_batch)} sequences"
