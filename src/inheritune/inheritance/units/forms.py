"""Which shapes keep a size or a speed: numbers of blocks, with MLPs, heads and hidden channels as wide as it allows."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import lcm
from typing import TYPE_CHECKING

from inheritune.arch import build_skeleton, first_units, layer_count, parameter_count
from inheritune.errors import InputError
from inheritune.inheritance.resolution import above_budget, budget_use
from inheritune.inheritance.target import TargetSpec, target_config
from inheritune.inheritance.units.choice import UNITS
from inheritune.inheritance.units.speed import Pace
from inheritune.recipe import Inherit
from inheritune.results import ShapeCandidate
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_DEPTHS = 5  # numbers of blocks that are tried
_NARROWEST = {"mlp": 0.3, "hidden": 0.5}  # of a width: narrower ones are not tried
_MULTIPLES = (128, 64, 32, 16, 8, 4, 2, 1)  # of units; the first that leaves enough to choose from
_CHOICES = 12  # multiples in a width, at least
_NEAR = 0.95  # of a speed's budget: what uses more of it is as wide as measurements can tell
_TRIES = 3  # measurements for one shape, once one is fast enough


@dataclass(frozen=True)
class Form:
    """Numbers of blocks, heads, neurons and hidden channels (None: all)."""

    layers: int
    heads: int | None = None
    mlp: int | None = None
    hidden: int | None = None

    @property
    def numbers(self) -> dict[str, int]:
        """The units that each axis keeps, where it does not keep all."""
        return {axis: count for axis, count in asdict(self).items() if axis != "layers" and count is not None}


@dataclass
class ShapeSearch:
    """Finds the shapes that keep `spec.size` and `spec.speed`.

    `config` is that of the model that targets are made of, `reference` that of the model that sizes and speeds are
    relative to (which may have more tokens), `rotated` that of the model with rotated channels, where these are
    narrowed that way. `blocks_of` gives the blocks for a number of them. Axes that `spec` gives are as it says.
    """

    spec: Inherit
    config: "PretrainedConfig"
    reference: "PretrainedConfig"
    pace: Pace
    blocks_of: Callable[[int], Sequence[int]]
    rotated: "PretrainedConfig | None" = None
    trust_remote_code: bool = False
    _slower: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._uses = {
            key: budget_use(self.reference, self.spec.model_copy(update={other: None}), self.trust_remote_code)
            for key, other in (("size", "speed"), ("speed", "size"))
            if getattr(self.spec, key) is not None
        }

    def target(self, form: Form) -> "PretrainedConfig":
        """The config of a shape. Raises InputError for one that the architecture cannot have."""
        numbers = self.spec.widths | form.numbers
        config = self.rotated if self.rotated is not None and "hidden" in numbers else self.config
        return target_config(config, TargetSpec(tuple(self.blocks_of(form.layers)), width=first_units(config, numbers)))

    def candidate(self, form: Form) -> ShapeCandidate:
        """A shape with its parameters."""
        parameters = parameter_count(build_skeleton(self.target(form), self.trust_remote_code))
        return ShapeCandidate(**asdict(form), parameters=parameters)

    def deepest(self) -> Form:
        """As many whole blocks as the budget allows. Raises InputError where it allows none."""
        found = self._largest(Form, range(1, layer_count(self.config) + 1))
        if found is None:
            raise above_budget(self.spec)
        return found

    def every(self, deepest: Form, keeps_hidden: bool = False) -> list[Form]:
        """`deepest`, and deeper shapes whose MLPs, heads or hidden channels are as wide as the budget allows.

        Of each of four further numbers of blocks: a narrower MLP; fewer heads with it; fewer hidden channels with it.
        """
        total, forms = layer_count(self.config), list[Form | None]([deepest])
        depths = {round(deepest.layers + (total - deepest.layers) * part / (_DEPTHS - 1)) for part in range(1, _DEPTHS)}
        for layers in sorted(depths - {deepest.layers}):
            whole = Form(layers)
            for heads in [None, *_fewer_heads(self.config, deepest.layers / layers)]:
                forms.append(self._widest(replace(whole, heads=heads), "mlp"))
            narrow = None if keeps_hidden or self.spec.hidden is not None else self._widest(whole, "hidden")
            if narrow is not None:  # halfway to it, and the rest is left to the MLP
                middle = replace(narrow, hidden=self._halfway(narrow.hidden or 0))
                forms.append(self._widest(middle, "mlp") or narrow)
        return list(dict.fromkeys(form for form in forms if form is not None))

    def _halfway(self, hidden: int) -> int:
        """Between so many hidden channels and all of them."""
        width = unit_count(self.config, "hidden")
        step = self._step("hidden", width)
        return (hidden + width) // 2 // step * step

    def _step(self, axis: str, width: int) -> int:
        """What numbers of units are multiples of. Many configs want a multiple of the heads as hidden size."""
        each = unit_count(self.config, "heads") or 1 if axis == "hidden" else 1
        steps = (lcm(each, multiple) for multiple in _MULTIPLES)
        return next((step for step in steps if width >= _CHOICES * step), each)

    def _widest(self, form: Form, axis: str) -> Form | None:
        """A shape with as many units of an axis as the budget allows, a round number; None where these are too few."""
        width = unit_count(self.config, axis)
        step = self._step(axis, width)
        counts = [count for count in range(step, width + 1, step) if count >= _NARROWEST[axis] * width]
        with suppress(InputError):  # heads or channels that the architecture cannot have
            return self._largest(lambda count: replace(form, **{axis: count}), counts)
        return None

    def _largest(self, form_of: Callable[[int], Form], counts: Sequence[int]) -> Form | None:
        """The shape of the largest count that keeps the budget; None where the smallest does not.

        A speed is measured where its estimate says that the budget is just kept, and the estimate corrected by that.
        """

        def estimated() -> int:
            return _last(lambda at: self._use(self.target(form_of(counts[at]))) <= 1, len(counts))

        if "speed" not in self._uses:
            place = estimated()
            return None if place < 0 else form_of(counts[place])
        low, high, tries = -1, len(counts), 0  # low is fast enough, or is none; high is not
        while high - low > 1 and (low < 0 or tries < _TRIES):
            place = min(max(estimated(), low + 1), high - 1)
            form = form_of(counts[place])
            target = self.target(form)
            used, tries = self._measured(form, target), tries + 1
            self._slower = used / self._uses["speed"](target)
            if used > 1 or self._use(target) > 1:
                high = place
            elif used > _NEAR:
                return form
            else:
                low = place
        return None if low < 0 else form_of(counts[low])

    def _use(self, target: "PretrainedConfig") -> float:
        """How much of the budget a target takes, its speed by estimate."""
        scale = {"size": 1.0, "speed": self._slower}
        return max(use(target) * scale[key] for key, use in self._uses.items())

    def _measured(self, form: Form, target: "PretrainedConfig") -> float:
        """How much of the budget of speed a target takes."""
        assert self.spec.speed is not None
        times, work = self.spec.speed.times, self.spec.speed.of
        found = self.pace.measure(target, work, times)
        sizes = ", ".join(f"{axis} {count}" for axis, count in asdict(form).items() if count is not None)
        logger.info(f"speed: {sizes}: {found.times:.2f}x {work} ({found.lowest:.2f} to {found.highest:.2f})")
        return times / found.times


def unit_count(config: "PretrainedConfig", axis: str) -> int:
    """How many heads or neurons (`mlp`) each block has, or hidden channels; 0 where a number cannot be chosen."""
    with suppress(InputError):
        return len(first_units(config, {axis: 1.0}).of_block(0).axes()[UNITS[axis]] or ())
    return 0


def _fewer_heads(config: "PretrainedConfig", share: float) -> list[int]:
    """The number of heads nearest to that share of them which the architecture can have without other channels."""
    legal, heads = [], unit_count(config, "heads")
    for count in range(1, heads):
        with suppress(InputError):
            first_units(config, {"heads": count})
            legal.append(count)
    return sorted(legal, key=lambda count: abs(count - share * heads))[:1]


def _last(fits: Callable[[int], bool], count: int) -> int:
    """The last of the places 0 to `count` - 1 that fits, where none fits behind one that does not; -1: not one."""
    low, high = -1, count - 1  # low fits, or is none; more than high does not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
