"""From figures to a selection: the order in which blocks are dropped.

A target of n blocks keeps those that come last in this order. Growth puts dropped blocks back from the end of the
order, each at its place.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from inheritune.analysis.pace import Pace
from inheritune.analysis.progress import Progress
from inheritune.analysis.race import Runner, finish
from inheritune.errors import InputError
from inheritune.results import Dropped
from inheritune.runlog import LiveLine, logger

if TYPE_CHECKING:
    from inheritune.analysis.ablation import Trials

_LIKELY = 4  # how many candidates of each order are tried in any case, as neither order is reliable
_SEAM = 0.5  # how much more a drop counts that separates neighbours, as a share of what it adds to the loss


def search(
    trials: "Trials",
    enough: Callable[[list[int]], bool],
    allowed: Callable[[list[int]], bool],
    progress: Progress | None = None,
) -> list[Dropped]:
    """Drop one block after the other, each time the one without which the loss on the calibration text rises least.

    A seam is a place where a block follows another one than in the reference, or where the first or the last block is
    missing. Training reduces a loss better the fewer seams there are (docs/log.md). So what a drop adds to the loss
    counts half more where it makes a seam, and half less where it removes one.

    Not all candidates are tried each time. The fewer blocks are left, the more each of them matters, so the increase
    when a block was last tried is a lower bound of its increase now. Candidates are tried from the lowest bound on,
    except those whose bound exceeds the best increase so far (Minoux, Accelerated greedy algorithms, 1978). Losses
    follow this rule only roughly, so the four of lowest bound are tried in any case, and the four of lowest influence
    on the present hidden states. They race: all see a part of the text, and only those that are not clearly worse than
    the best one see the next part (`race.finish`). After each drop the kept blocks may recover (see `Trials.recover`).
    The search ends when `enough(kept)`; `allowed` tells which sets of blocks make a model.

    `progress` is saved after each drop. Drops that it already has are repeated without their trials, and a recovery
    trains again. So an interrupted search ends with the same bits as an uninterrupted one.

    Raises InputError where no further block can be dropped.
    """
    progress = progress or Progress()
    count = next((count for count in range(trials.total) if enough(trials.kept[count:])), trials.total)
    for known in progress.drops:
        _drop(trials, known, enough)
    with LiveLine("choosing blocks", count, len(progress.drops)) as line:
        pace = Pace(line, progress, count, 2 * _LIKELY)
        while not enough(trials.kept):
            pace.begin()
            best = _round(trials, progress, allowed, pace)
            if best is None:
                raise InputError(
                    "choose: auto", f"no block of {trials.kept} can be dropped without changing the others",
                    "ask for more blocks, or choose: first",
                )  # fmt: skip
            pace.searched()
            progress.promises.pop(best.block)
            progress.drops.append(best)
            progress.save()
            logger.info(f"dropped {best.block}: {best.increase:+.2f}, loss {best.loss:.3f}")
            _drop(trials, best, enough)
            pace.recovered()
        pace.show()
    return list(progress.drops)


def _drop(trials: "Trials", best: Dropped, enough: Callable[[list[int]], bool]) -> None:
    trials.drop(best.block)
    if not enough(trials.kept):
        trials.recover()


def _round(trials: "Trials", progress: Progress, allowed: Callable[[list[int]], bool], pace: Pace) -> Dropped | None:
    """Find the next block to drop; None where none may be dropped."""
    promises = progress.promises
    order = sorted(trials.kept, key=lambda block: promises.get(block, -math.inf))
    likely = {*order[:_LIKELY], *sorted(trials.kept, key=trials.influence)[:_LIKELY]}
    order = [block for block in order if block in likely] + [block for block in order if block not in likely]
    runners: list[Runner] = []
    for block in order:
        runner = Runner(block, 1 + _SEAM * seams_made(block, trials.kept, trials.total))
        least = runner.counted(promises.get(block, -math.inf))
        if runners and block not in likely and min(one.counted() for one in runners) <= least:
            continue
        if allowed([other for other in trials.kept if other != block]):
            runner.run(trials, 0)
            progress.trials += 1
            runners.append(runner)
            pace.show()
    if not runners:
        return None
    winner = finish(trials, runners, pace.show)
    promises.update({one.block: one.increase for one in runners})
    loss = trials.whole_loss + float(winner.over_whole.mean())
    return Dropped(block=winner.block, loss=loss, increase=winner.increase)


def seams_made(block: int, kept: Sequence[int], total: int) -> int:
    """How many seams dropping one of the blocks `kept` adds: 1, 0, or -1."""
    left, right = block - 1 in kept or block == 0, block + 1 in kept or block == total - 1
    return left + right - 1


def order_by(values: Sequence[float]) -> list[Dropped]:
    """All blocks in the order of a figure, the lowest dropped first; of equal ones the later block."""
    order = sorted(range(len(values)), key=lambda block: (values[block], -block))
    return [Dropped(block=block, loss=None, increase=None) for block in order]
