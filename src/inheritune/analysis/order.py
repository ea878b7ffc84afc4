"""From figures to a selection: in which order blocks can best be done without.

The order is all there is: a target of n blocks keeps what is left when the others have been dropped, and growth puts
them back from the end of the order, each at its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inheritune.analysis.trials import Trials
from inheritune.errors import InputError

_LIKELY = 4  # of each order of the candidates, so many are tried: neither is to be trusted
FINALISTS = 5
"""Candidates of the last round that are trained on."""


@dataclass(frozen=True)
class Dropped:
    """A block of the order: `loss` is that of the blocks left, `increase` what dropping it added, in nats a token; None
    where they were not measured.
    """

    block: int
    loss: float | None = None
    increase: float | None = None


@dataclass(frozen=True)
class Finalist:
    """A block that the last drop was between: what dropping it added to the loss, and the loss behind the race."""

    block: int
    increase: float
    trained: float


@dataclass
class Search:
    """Drop one block after the other, each time the one without which the loss on the calibration text is lowest.

    Not all are tried each time. Blocks left over matter more the fewer they are, so a block's increase when it was last
    tried promises the least it can be now: candidates are tried from the lowest on, until the best one tried is below
    what the next one promises (Minoux, Accelerated greedy algorithms, 1978). As losses keep this rule only roughly, the
    four of lowest promise are tried in any case, and the four of lowest influence on the hidden states as they are now.

    Behind each drop the blocks left may recover (see `Trials.recover`): what a block is worth is then what it is worth
    to blocks that have begun to do without the others. No drop follows the last one to show that, so in its round all
    are tried, and the five best are trained a few steps each: the one with the lowest loss after that is dropped.

    Goes on until `enough(kept)`; `allowed` says which sets of blocks make a model. Behind `run`, `dropped` is the
    order, and `finalists` are those of the last round, best first; none without a recovery.
    """

    trials: Trials
    enough: Callable[[list[int]], bool]
    allowed: Callable[[list[int]], bool]
    say: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.dropped: list[Dropped] = []
        self.finalists: list[Finalist] = []
        self._promises: dict[int, float] = {}

    def run(self) -> list[Dropped]:
        """The order. Raises InputError where no further block can be dropped."""
        trials = self.trials
        while not self.enough(trials.kept):
            candidates = [block for block in trials.kept if self.allowed(self._rest(block))]
            if not candidates:
                raise InputError(
                    "choose: auto", f"no block of {trials.kept} can be dropped without changing the others",
                    "ask for more blocks, or choose: first",
                )  # fmt: skip
            last = all(self.enough(self._rest(block)) for block in candidates)
            best = self._round(candidates, last)
            self.dropped.append(best)
            self._promises.pop(best.block)
            self.say(f"dropped {best.block}: {best.increase:+.2f}, loss {best.loss:.3f}")
            if not self.enough(trials.kept):
                trials.recover()
        return self.dropped

    def _rest(self, block: int) -> list[int]:
        return [other for other in self.trials.kept if other != block]

    def _round(self, candidates: Sequence[int], last: bool) -> Dropped:
        """Find and drop the next block."""
        trials, promises = self.trials, self._promises
        base = float(trials.losses.mean())
        order = sorted(candidates, key=lambda block: promises.get(block, float("-inf")))
        likely = {*order[:_LIKELY], *sorted(candidates, key=trials.influence)[:_LIKELY], *(order if last else ())}
        order = [block for block in order if block in likely] + [block for block in order if block not in likely]
        tried: dict[int, float] = {}
        best, held = -1, None
        for block in order:
            if tried and block not in likely and tried[best] <= base + promises.get(block, float("-inf")):
                break
            losses, states = trials.without(block)
            tried[block] = float(losses.mean())
            promises[block] = tried[block] - base
            if len(tried) == 1 or tried[block] < tried[best]:
                best, held = block, (losses, states)
        winner = self._race(tried, base) if last else best
        trials.drop(winner, *(held if winner == best and held else trials.without(winner)))
        return Dropped(winner, tried[winner], tried[winner] - base)

    def _race(self, tried: dict[int, float], base: float) -> int:
        """The block without which the loss is lowest behind some training, of those with the lowest loss before it."""
        ahead = sorted(tried, key=lambda block: tried[block])[:FINALISTS]
        trained = self.trials.race(ahead) if len(ahead) > 1 else None
        if trained is None:
            return ahead[0]
        means = {block: float(losses.mean()) for block, losses in zip(ahead, trained, strict=True)}
        finish = sorted(ahead, key=lambda block: means[block])
        self.finalists = [Finalist(block, tried[block] - base, means[block]) for block in finish]
        return finish[0]


def order_by(values: Sequence[float]) -> list[Dropped]:
    """All blocks at once in the order of a figure, the lowest dropped first; of equal ones the later."""
    return [Dropped(-block) for _, block in sorted((value, -block) for block, value in enumerate(values))]
