"""Entry point: runs a command and turns an error into a line and an exit status."""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from inheritune.errors import InherituneError, OtherProcessFailed, is_failure, is_out_of_memory, shown_line
from inheritune.runtime import answer, leave, place_of_process

_MOMENT = 3.0  # seconds
_SOON = 0.05  # seconds
_SHOWN = 200  # characters of a path or text
_RESUMING = ("run", "compare", "train", "prepare")
"""Commands that resume their own unfinished work."""
_RESUME = "what was finished is kept: run the same command again to resume"
_ACCESS = "give another place, or the permission to use this one"
_WRONG_PLACE = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.EEXIST: "give another place, or remove what is there",
    errno.ELOOP: "mend the links, or give another path",
}
"""The remedies for errors of the system that come from a wrong path."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")  # gloo's words
_signals: list[int] = []  # the signal that came
_LOST_SIGNAL = 0  # in `_signals`: the KeyboardInterrupt of a signal was lost


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status: 0 done, 2 wrong input, 1 anything else, 130 interrupted.

    Ctrl-C and SIGTERM end a stage: half-made folders are removed, what is finished stays. A second one ends the process
    at once, wherever it is.
    """
    _signals.clear()
    # A shell starts background jobs with Ctrl-C ignored, so that only the job in front gets it.
    signals = [signal.SIGTERM] + [signal.SIGINT] * (signal.getsignal(signal.SIGINT) != signal.SIG_IGN)
    handled = {number: signal.signal(number, _interrupt) for number in signals}
    sys.unraisablehook, before = _again, sys.unraisablehook
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    ends = arguments is None  # else called from Python
    try:
        try:
            status = _run(arguments)
        finally:
            leave()
        if ends:
            _hold_to(status, signals)
        return status
    except KeyboardInterrupt:  # while the program is loaded, or while it ends
        return _fail([_interrupted(arguments)], 130)
    finally:
        sys.unraisablehook = before
        if not ends:
            for number, handler in handled.items():
                signal.signal(number, handler)


def _hold_to(status: int, signals: Sequence[int]) -> None:
    """From now on a signal ends the process at once with its own status, as the work is done."""

    def end(number: int, frame: object) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # the last: it is being flushed
            sys.stdout.flush()
        os._exit(status)

    for number in signals:
        signal.signal(number, end)


def _open_streams() -> None:
    """Give a descriptor that the shell has closed to /dev/null, so that no file that is opened later becomes it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives the lowest free number, which is this one
            setattr(sys, name, open(number, "r+" if number else "r", closefd=False))  # noqa: SIM115


def _run(arguments: Sequence[str] | None) -> int:
    import typer

    from inheritune.cli.commands import app  # here, so that a signal while it is loaded is handled
    from inheritune.runlog import log_on_terminal

    # depending on its version typer has its own click or uses the installed one; this is the error class of both
    usage_error = typer.BadParameter.__mro__[1]
    try:
        with log_on_terminal(logging.CRITICAL if place_of_process()[0] else logging.WARNING):
            # typer may turn an interruption into a status
            if app(args=arguments, standalone_mode=False, prog_name="inheritune") == 130:
                raise KeyboardInterrupt
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail([_interrupted(arguments)], 130)
    except OtherProcessFailed as error:
        return error.exit_status
    except InherituneError as error:
        return _fail([str(problem) for problem in getattr(error, "problems", [error])], error.exit_status)
    except BaseException as error:
        if not is_failure(error):
            raise
        if _hides_an_interruption(error):
            return _fail([_interrupted(arguments)], 130)
        if isinstance(error, usage_error):
            return _fail([_usage(error)], 2)
        line, status = _explained(error, _command(arguments) in _RESUMING)
        return _fail([line], status)
    return 0


def _usage(error: Any) -> str:
    place = error.ctx.command_path if error.ctx else "inheritune"
    return f"{place}: {error.format_message().rstrip('.')}; see `{place} --help`"


def _explained(error: BaseException, resumes: bool) -> tuple[str, int]:
    """The line and the exit status of an error of Python or a library."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, OSError):
        return _of_system(error, resumes), 2 if error.errno in _WRONG_PLACE else 1
    wrong_name = _wrong_name(error)
    if wrong_name is not None:
        return wrong_name, 2
    if isinstance(error, MemoryError):
        return "out of memory; in training, lower train.micro_batch or train.sequence_length, then run again", 1
    if is_out_of_memory(error):
        remedy = "set train.activation_checkpointing, or lower train.micro_batch or train.sequence_length"
        return f"out of memory; {remedy}, then run again", 1
    if os.environ.get("INHERITUNE_DEBUG"):
        traceback.print_exc()
    if kind in ("InductorError", "BackendCompilerFailed"):
        return f"torch.compile: {text[:_SHOWN]}...; mend the compiler, or set train.compile to false", 1
    if kind.startswith("Dist") or any(sign in str(error) for sign in _LOST):
        lost = "another process of the job ended or did not answer (hardware.timeout)"
        return f"{lost}; {_RESUME if resumes else 'run the same command again'}", 1
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename}:{last.lineno}"
    return f"a fault in inheritune or a library: {kind}: {text[:300]} ({place}); INHERITUNE_DEBUG=1 shows all of it", 1


def _interrupt(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt; at a second signal end the process."""
    repeated = _signals == [_LOST_SIGNAL]
    if _signals and not repeated:
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # a progress line hides the cursor
        os._exit(130)
    _signals[:] = [number]
    if not repeated:
        answer(f"{signal.Signals(number).name}: stopping; a second signal ends at once")
    raise KeyboardInterrupt


def _hides_an_interruption(error: BaseException) -> bool:
    """Whether an error came up while a KeyboardInterrupt was handled, as in a library's `finally`."""
    context = error.__context__
    while context is not None and not isinstance(context, KeyboardInterrupt):
        context = context.__context__
    return context is not None


def _interrupted(arguments: Sequence[str] | None) -> str:
    """The line for an interruption, by command."""
    if _command(arguments) in _RESUMING:
        return f"interrupted; {_RESUME}"
    return "interrupted; nothing half-made is kept: if there is no result, run the same command again"


def _again(lost: "sys.UnraisableHookArgs") -> None:
    """Interrupt again in a moment where an interruption was lost, as in `__del__`."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        _signals[:] = [_LOST_SIGNAL]
        threading.Timer(_SOON, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(lost)


def _command(arguments: Sequence[str] | None) -> str:
    """The command's name; empty for a dry run, which keeps nothing."""
    words = sys.argv[1:] if arguments is None else arguments
    return "" if "--dry-run" in words else next((word for word in words if not word.startswith("-")), "")


def _of_system(error: OSError, resumes: bool) -> str:
    place = str(error.filename or "disk")
    place = place if len(place) <= _SHOWN else f"{place[:_SHOWN]}..."
    what = error.strerror or error
    if error.errno in _WRONG_PLACE:
        return f"{place}: {what}; {_WRONG_PLACE[error.errno]}"
    again = "run the same command again" + (": it resumes from what was finished" if resumes else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: the disk is full; make room, then {again}"
    return f"{place}: {what}; mend it and {again}"


def _wrong_name(error: BaseException) -> str | None:
    """The line for a name that the system or a library does not accept; None for other errors."""
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return "a path has a NUL character in it; give a path without it"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Python before 3.13
        return f"{str(error)[:_SHOWN]}: links that lead to themselves; {_WRONG_PLACE[errno.ELOOP]}"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object[:_SHOWN]!r}: a name in it is not UTF-8; rename what has this name"
    return None


def _fail(lines: list[str], status: int) -> int:
    """Print what went wrong. Of several processes the first prints at once, and only it prints an interruption. Another
    one waits for a moment, in which the launcher ends it if the first has failed too.
    """
    rank, _ = place_of_process()
    if rank and status == 130:
        return status
    if rank:
        time.sleep(_MOMENT)
    for line in lines:
        text = shown_line(line if status == 130 else f"error: {line}")
        print(f"process {rank}: {text}" if rank else text, file=sys.stderr, flush=True)
    return status
