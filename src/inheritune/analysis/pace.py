"""What a search for blocks shows while it works: drops, loss, the time so far, and about how much is left."""

import time

from inheritune.analysis.progress import Progress
from inheritune.runlog import LiveLine, duration

_LATEST = 3  # drops whose time predicts that of the others


class Pace:
    """Shows a search of `drops` drops on a live line, and measures how long a drop takes.

    `usual` is how many candidates most drops compare. One that compares more counts as if it had taken as many.
    """

    def __init__(self, line: LiveLine, progress: Progress, drops: int, usual: int) -> None:
        self._line, self._progress, self._drops, self._usual = line, progress, drops, usual
        self._costs: list[float] = []  # seconds of each drop, with the recovery after it
        self._began, self._trials = time.monotonic(), progress.trials

    def show(self) -> None:
        """Show the present state."""
        done = len(self._progress.drops)
        figures = f"drops, {duration(self._progress.seconds)} so far"
        self._line.update(done, figures, self._left(self._drops - done))

    def begin(self) -> None:
        """The search for the next block begins."""
        self._began, self._trials = time.monotonic(), self._progress.trials
        self.show()

    def searched(self) -> None:
        """The next block is found."""
        trials = max(1, self._progress.trials - self._trials)
        self._costs.append((time.monotonic() - self._began) * min(1.0, self._usual / trials))
        self._began = time.monotonic()

    def recovered(self) -> None:
        """The other blocks have recovered from the drop."""
        self._costs[-1] += time.monotonic() - self._began

    def _left(self, drops: int) -> str:
        if not self._costs:
            return "time left: known after the next drop"
        latest = self._costs[-_LATEST:]
        left = drops * sum(latest) / len(latest) - (time.monotonic() - self._began)
        return f"about {duration(max(0.0, left))} left"
