"""From figures to a selection: in which order blocks can best be done without.

The order is all there is: a target of n blocks keeps what is left when the others have been dropped, and growth puts
them back from the end of the order, each at its place.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from inheritune.analysis.ablation import Trials
from inheritune.analysis.progress import Dropped, Progress
from inheritune.errors import InputError

_LIKELY = 4  # of each order of the candidates, so many are tried: neither is to be trusted
_SEAM = 0.5  # how much more a drop counts that parts neighbours, as a share of what it adds to the loss


def search(
    trials: Trials,
    enough: Callable[[list[int]], bool],
    allowed: Callable[[list[int]], bool],
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> list[Dropped]:
    """Drop one block after the other, each time the one without which the loss on the calibration text rises least.

    A seam is where a block follows on one that it did not follow in the reference, or where the first or the last is
    gone. Training mends a loss better the fewer there are (docs/log.md), so what a drop adds to the loss counts
    half more where it makes a seam, and half less where it takes one away.

    Not all are tried each time. Blocks left over matter more the fewer they are, so a block's increase when it was last
    tried promises the least it can be now: candidates are tried from the lowest on, but for those that promise more
    than the best one tried (Minoux, Accelerated greedy algorithms, 1978). As losses keep this rule only roughly, the
    four of lowest promise are tried in any case, and the four of lowest influence on the hidden states as they are now.
    Behind each drop the blocks left may recover (see `Trials.recover`): what a block is worth is then what it is worth
    to blocks that have begun to do without the others. Goes on until `enough(kept)`; `allowed` says which sets of
    blocks make a model.

    `progress` is saved after each drop. The drops that it already has are made again without the trials that led to
    them; a recovery trains again. So a search that was interrupted ends with the bits of one that was not.

    Raises InputError where no further block can be dropped.
    """
    progress = progress or Progress()
    known, trials.runs = list(progress.drops), progress.trials
    order: list[Dropped] = []
    while not enough(trials.kept):
        best = known[len(order)] if len(order) < len(known) else _round(trials, progress.promises, allowed)
        if best is None:
            raise InputError(
                "choose: auto", f"no block of {trials.kept} can be dropped without changing the others",
                "ask for more blocks, or choose: first",
            )  # fmt: skip
        order.append(best)
        if len(order) > len(known):
            progress.promises.pop(best.block)
            progress.drops, progress.trials = list(order), trials.runs
            progress.save()
            say(f"dropped {best.block}: {best.increase:+.2f}, loss {best.loss:.3f}")
        else:
            trials.drop_again(best.block)
        if not enough(trials.kept):
            trials.recover()
    return order


def _round(trials: Trials, promises: dict[int, float], allowed: Callable[[list[int]], bool]) -> Dropped | None:
    """Find and drop the next block; None where none may be. `promises` are increases, weighed by no seam."""
    base = float(trials.losses.mean())
    order = sorted(trials.kept, key=lambda block: promises.get(block, float("-inf")))
    likely = {*order[:_LIKELY], *sorted(trials.kept, key=trials.influence)[:_LIKELY]}
    order = [block for block in order if block in likely] + [block for block in order if block not in likely]
    best: tuple[float, int] | None = None
    held: Any = None
    for block in order:
        weight = 1 + _SEAM * seams_made(block, trials.kept, trials.total)
        if best is not None and block not in likely and best[0] <= _weighed(promises.get(block, float("-inf")), weight):
            continue
        if not allowed([other for other in trials.kept if other != block]):
            continue
        losses, states = trials.without(block)
        promises[block] = float(losses.mean()) - base
        counted = _weighed(promises[block], weight)
        if best is None or counted < best[0] or math.isnan(best[0]):
            best, held = (counted, block), (losses, states)
    if best is None:
        return None
    trials.drop(best[1], *held)
    return Dropped(best[1], base + promises[best[1]], promises[best[1]])


def seams_made(block: int, kept: Sequence[int], total: int) -> int:
    """How many seams more there are when one of the blocks `kept` is dropped: 1, 0, or -1."""
    left, right = block - 1 in kept or block == 0, block + 1 in kept or block == total - 1
    return left + right - 1


def _weighed(increase: float, weight: float) -> float:
    return increase * (weight if increase > 0 else 2 - weight)


def order_by(values: Sequence[float]) -> list[Dropped]:
    """All blocks at once in the order of a figure, the lowest dropped first; of equal ones the later."""
    return [Dropped(-block) for _, block in sorted((value, -block) for block, value in enumerate(values))]
