"""The log on standard error, and one live line for a training."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from inheritune.redaction import visible, visible_text, without_secrets
from inheritune.runlog.log import logger

_PLAIN_SECONDS = 15.0  # between two lines where the output is not a terminal


class PlainConsole(Console):
    """A console for plain text: no markup, no credentials, and escapes in place of control characters."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Rich calls this for each text that it prints, also in tables."""
        return super().render_str(visible_text(without_secrets(text)), **settings)


class TerminalHandler(logging.Handler):
    """Prints the log on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.console = PlainConsole(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; a warning is marked as one."""
        text, warns = record.getMessage(), record.levelno >= logging.WARNING
        self.console.print(f"warning: {text}" if warns else text, style="yellow" if warns else None, soft_wrap=True)


@contextmanager
def log_on_terminal(level: int) -> Iterator[None]:
    """Inside, standard error shows the log from `level` on (`logger.setLevel` changes it), and the root's handlers do
    not. Afterwards the logger is as it was.
    """
    handler, before, propagated = TerminalHandler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagated


class _Left(TimeRemainingColumn):
    """The remaining time that the task was given, or else what its speed so far predicts."""

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        return super().render(task) if left is None else Text(left, style="progress.remaining")


def duration(seconds: float) -> str:
    """`2 h 5 min`, `7 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


class LiveLine:
    """The figures and remaining time of work of several steps, such as a training, that begins after `done` steps.

    A context manager. Where the log is not on a terminal, these are lines of it.
    """

    def __init__(self, label: str, steps: int, done: int) -> None:
        self._label, self._steps, self._done = visible(label), steps, done
        self._val = ""
        self._last = time.monotonic()
        self._started, self._first = time.monotonic(), done
        self._progress: Progress | None = None
        handler = next((one for one in logger.handlers if isinstance(one, TerminalHandler)), None)
        if handler is not None and handler.console.is_terminal and logger.isEnabledFor(logging.INFO):
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,}/{task.total:,}  {task.fields[figures]}"),
                _Left(elapsed_when_finished=True),
                console=handler.console,
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task(
                self._label, total=self._steps, completed=self._done, figures="", left=None
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, record: dict[str, Any]) -> None:
        """Show a metrics record of a training: loss, validation loss and tokens per second."""
        if "val_loss" in record:
            self._val = f"  val {record['val_loss']:.3f}"
        loss = f"loss {record['loss']:.3f}" if "loss" in record else ""
        rate = f"  {record['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in record else ""
        self.update(record["step"], f"{loss}{self._val}{rate}".strip())

    def update(self, done: int, figures: str, left: str | None = None) -> None:
        """Show figures: each time on a terminal, every 15 seconds and after the last step elsewhere.

        `left` is the remaining time in words, for steps that take different times.
        """
        self._done = done
        if self._progress is not None:
            self._progress.update(self._task, completed=done, figures=figures, left=left)
        elif time.monotonic() - self._last >= _PLAIN_SECONDS or done == self._steps:
            self._last = time.monotonic()
            if left is None and done > self._first:  # before the first step nothing is known
                seconds = (self._last - self._started) / (done - self._first) * (self._steps - done)
                left = f"{duration(seconds)} left"
            parts = [self._label, f"{done:,}/{self._steps:,}", figures, left or ""]
            logger.info("  ".join(part for part in parts if part))
