"""Errors for people. The exit status of the program follows from the class."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from inheritune.redaction import visible, without_secrets

BUILD_ERRORS = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError)
"""What the code of architectures raises for a config that it cannot use."""

_T = TypeVar("_T")
_LONGEST = 2000  # characters of a line


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its place, what was given, and the remedy."""

    place: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return shown_line(f"{self.place}: {self.what}; {self.remedy}")


def shown_line(text: str) -> str:
    """`text` as one line for a terminal or a log: no credentials, no control characters.

    The middle of a long text is cut out: what was given may have any length, and the remedy is at the end.
    """
    line = visible(" ".join(without_secrets(text).split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"


class InherituneError(Exception):
    """Base of all errors that are reported in a line, without a traceback."""

    exit_status = 1


class RunError(InherituneError):
    """The input was right, and the work failed: a full disk, a loss that is not a number. Exit status 1."""

    def __init__(self, place: str, what: str, remedy: str) -> None:
        self.problems = [Problem(place, what, remedy)]
        super().__init__(str(self.problems[0]))


class Diverged(RunError):
    """A training whose loss or gradient is no number any more. Exit status 1."""


class InputError(InherituneError):
    """The input (recipe, data, model, command line) is wrong. Exit status 2."""

    exit_status = 2

    def __init__(self, place: str, what: str, remedy: str) -> None:
        self.problems = [Problem(place, what, remedy)]
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: list[Problem]) -> "InputError":
        """One error that carries several problems, so that all are reported at once."""
        error = cls(problems[0].place, problems[0].what, problems[0].remedy)
        error.problems = list(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error


def check_all(checks: Iterable[Callable[[], _T]]) -> list[_T]:
    """Run all checks and return their results. Raises one InputError with the problems of all that raise one."""
    results: list[_T] = []
    problems: list[Problem] = []
    for check in checks:
        try:
            results.append(check())
        except InputError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise InputError.of(problems)
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch had no memory for a tensor, on a device or in the CPU's memory. Needs no torch."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return "OutOfMemoryError" in kinds or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


class DamagedFile(InputError):
    """A file of ours is cut short, was changed by hand, or is another program's. Exit status 2."""


class Interrupted(InherituneError):
    """Stopped by a signal after the state was saved. Exit status 130."""

    exit_status = 130


class OtherProcessFailed(InherituneError):
    """Another process of the job failed and has printed why; this one ends with the same status and prints nothing."""

    def __init__(self, exit_status: int) -> None:
        self.exit_status = exit_status
        super().__init__("another process of the job failed")


def is_failure(error: BaseException) -> bool:
    """Whether something failed, not a signal or an exit. A panic of a library in Rust is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
