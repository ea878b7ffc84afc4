"""What a person sees during the work, on standard error: lines, and one live line for a training."""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from inheritune.redaction import visible, visible_text, without_secrets

_PLAIN_SECONDS = 15.0  # between two lines where the output is not a terminal


class PlainConsole(Console):
    """A console for plain text: no markup, no credentials, and escapes in place of control characters."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Rich calls this for each text that it prints, also in tables."""
        return super().render_str(visible_text(without_secrets(text)), **settings)


class Terminal:
    """Lines for people; a `quiet` one prints nothing. Errors are raised, not printed here."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = PlainConsole(stderr=True, quiet=quiet)

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print one line that must not be missed."""
        self.console.print(f"warning: {line}", style="yellow", soft_wrap=True)

    def live(self, label: str, steps: int, done: int) -> "LiveLine":
        """A live line for a training that begins after `done` of `steps` steps; a context manager."""
        return LiveLine(self, label, steps, done)


class LiveLine:
    """The loss, validation loss, tokens per second and remaining time of one training."""

    def __init__(self, terminal: Terminal, label: str, steps: int, done: int) -> None:
        self._terminal, self._label, self._steps, self._done = terminal, visible(label), steps, done
        self._val = ""
        self._last = time.monotonic()
        self._started, self._first = time.monotonic(), done
        self._progress: Progress | None = None
        if terminal.console.is_terminal and not terminal.quiet:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,}/{task.total:,}  {task.fields[figures]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=terminal.console,
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=self._steps, completed=self._done, figures="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, record: dict[str, Any]) -> None:
        """Show a metrics record: each one on a terminal, one every 15 seconds elsewhere."""
        self._done = record["step"]
        if "val_loss" in record:
            self._val = f"  val {record['val_loss']:.3f}"
        rate = f"  {record['tokens_per_second']:,.0f} tok/s" if "tokens_per_second" in record else ""
        figures = f"loss {record.get('loss', float('nan')):.3f}{self._val}{rate}"
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, figures=figures)
        elif time.monotonic() - self._last >= _PLAIN_SECONDS or self._done == self._steps:
            self._last = time.monotonic()
            speed = (self._done - self._first) / max(self._last - self._started, 1e-9)
            left = (self._steps - self._done) / max(speed, 1e-9)
            self._terminal.say(f"{self._label}  {self._done:,}/{self._steps:,}  {figures}  {left:,.0f} s left")
