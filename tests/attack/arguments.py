"""Command lines that are wrong, and environments in which the program cannot do its work as usual."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tests.attack.worker import Case

if TYPE_CHECKING:
    from tests.attack.inputs import Tables

VALUES = ("", " ", "x", "-1", "0", "1.5", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "null", "[]", "{}", "\0", "\udcff", "\x1b[31m", "a\nb",
          "é", "١٢", "0x10", "1_000", "-", "--", "=", ".", "..", "/", "/dev/null/x", "/proc/x/y", "/dev/full", "x" * 300, "x/" * 3000, "none", "auto", "2", "all",
          "half", "0.5", "3-1", "0-99", "0,0", "float32", "cuda", "cuda:99", "1 tokens", "2 steps", "1 epochs", "100%", "8 sequences", "K tokens")  # fmt: skip
RECIPE_OUT = ("out*", "shared*", ".shared*", ".out*", "runs*")


@cache
def options() -> dict[str, list[str]]:
    """The options of each command that take a value."""
    from inheritune.cli.commands import app

    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        found[name] = [
            (declared or (f"--{parameter.replace('_', '-')}",))[0]
            for parameter, value in inspect.signature(command.callback, eval_str=True).parameters.items()
            for info in (
                value.annotation.__metadata__[0]
                if get_args(value.annotation) and hasattr(value.annotation, "__metadata__")
                else None,
            )
            if type(info).__name__ == "OptionInfo" and bool not in _types(value.annotation)
            for declared in (info.param_decls,)
        ]
    return found


def _types(annotation: Any) -> set[Any]:
    arguments = get_args(annotation)
    return {annotation} if not arguments else {kind for argument in arguments for kind in _types(argument)}


def good_words(tables: "Tables") -> dict[str, tuple[str, ...]]:
    """A call of each command that would do its work."""
    place = tables.places
    return {
        "run": ("run", place["recipe"], "--out", "out", "-q"), "plan": ("plan", place["recipe"]), "new": ("new", place["model"], "out.yaml"),
        "prepare": ("prepare", place["text"], "--tokenizer", place["model"], "--validation", "200 tokens", "--out", "out", "-q"),
        "compare": ("compare", place["suite"], "--out", "out", "-q"),
        "analyze": ("analyze", place["model"], "--text", place["text"], "--sequences", "2", "--length", "16", "-q"),
        "evaluate": ("evaluate", place["model"], "--text", place["text"], "--sequence-length", "16", "-q"),
        "push": ("push", place["run"], "me/model", "-q"), "report": ("report", place["run"], "--out", "out"),
        "inherit": ("inherit", place["model"], "out", "--layers", "2"),
        "train": ("train", place["model"], "out", "--data", place["data"], "--length", "2 steps", "--batch", "2 sequences", "--sequence-length", "16", "-q"),
        "export": ("export", f"{place['trained']}/checkpoints/best", "out"),
        "bench": ("bench", "--model", place["model"], "--device", "cpu", "--steps", "5", "--batch", "2 sequences", "--sequence-length", "16", "--compile=false", "-q"),
    }  # fmt: skip


def _in_the_way(kind: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for name in ("out", "out.yaml"):
            path = folder / name
            if kind == "a file":
                path.write_text("mine", encoding="utf-8")
            elif kind == "a folder with a file":
                path.mkdir()
                (path / "mine").write_text("mine", encoding="utf-8")
            elif kind == "a link to nothing":
                path.symlink_to("nowhere/at/all")
            elif kind == "a link to a folder":
                (folder / "other").mkdir(exist_ok=True)
                path.symlink_to("other")
            else:
                path.symlink_to(name)

    return make


def of_words(tables: "Tables") -> Iterator[Case]:
    """Options with wrong values, unknown words, outputs that are there or cannot be."""
    good = good_words(tables)
    for command, words in good.items():
        keeps = RECIPE_OUT if command in ("run", "compare", "train", "prepare") else ()
        if command != "bench":  # it measures for longer than a case may
            yield Case(f"arguments: {command}: control", words, status=(0,))
        real = command in ("run", "plan", "inherit", "evaluate", "push", "prepare")
        yield Case(
            f"arguments: {command}: unknown option", (*words, "--no-such-option"), says=("no-such-option",), real=real
        )
        yield (
            Case(f"arguments: {command}: no words", (command,), status=(2,) if command != "bench" else (0, 2))
            if command != "bench"
            else Case("arguments: bench: two words", ("bench", "a", "b"))
        )
        yield Case(
            f"arguments: {command}: one word more",
            (*words, "more"),
            status=(0, 2) if command in ("evaluate", "analyze", "report", "prepare") else (2,),
            keeps=keeps,
        )
        yield Case(f"arguments: {command}: a NUL", tuple(word + "\0" for word in words))
        yield Case(f"arguments: {command}: half a character", (words[0], *(word + "\udcff" for word in words[1:])))
        yield Case(f"arguments: {command}: long words", (words[0], *(word + "x" * 5000 for word in words[1:])))
        for word in (
            "--help=x",
            "--quiet=x",
            "--json=no",
            "--=1",
            "--.=1",
            "--a.=1",
            "--.a=1",
            "--a..b=1",
            "---",
            "--a.b",
            "-Z",
            "-\0",
            "--\x1b[31m=1",
            "--é=1",
        ):
            yield Case(f"arguments: {command}: {word!r}", (*words, word), keeps=keeps)
        for option in options()[command]:
            for number in sorted(tables.draw(f"{command} {option}").sample(range(len(VALUES)), 12)):
                value = VALUES[number]
                if command == "bench" or (option == "--sequence-length" and value[:3] == "999"):
                    continue  # what is legal there takes long
                yield Case(
                    f"arguments: {command}: {option}: {number}", (*words, option, value), status=(0, 2), keeps=(*keeps, ".*"),
                )  # fmt: skip
            yield Case(
                f"arguments: {command}: {option} without a value", (*words, option), says=(option[2:],), keeps=keeps
            )
        if "out" in words or "out.yaml" in words:
            for kind in (
                "a file",
                "a folder with a file",
                "a link to nothing",
                "a link to a folder",
                "a link to itself",
            ):
                yield Case(
                    f"arguments: {command}: {kind} in the way",
                    words,
                    _in_the_way(kind),
                    (0, 2) if kind in ("a link to a folder", "a link to nothing") or command == "report" else (2,),
                    ("out",),
                )
            for place in (
                "/proc/x/out",
                "/dev/null/out",
                "/dev/null",
                "/sys/out",
                "a\0b",
                "x" * 300,
                "x/" * 3000,
                "nowhere\udcff",
                "/proc/self/fd/0",
                "",
                "/",
            ):
                moved = tuple(place if word in ("out", "out.yaml") else word for word in words)
                yield Case(
                    f"arguments: {command}: written to {place[:20]!r}",
                    moved,
                    status=(0, 2) if place in ("nowhere\udcff", "") else (2,),
                    keeps=keeps,
                )
    for words in (
        (),
        ("fly",),
        ("--fly",),
        ("",),
        ("\0",),
        ("\udcff",),
        ("run", "run"),
        ("--version=x",),
        ("-",),
        ("RUN",),
        ("x" * 10_000,),
        ("run",) * 500,
    ):
        yield Case(
            f"arguments: {' '.join(words)!r:.40}",
            words,
            status=(0, 2) if not words else (2,),
            real=len(words) == 1 and words[0].isalnum(),
        )


def of_environments(tables: "Tables") -> Iterator[Case]:
    """Odd variables, places that cannot be written, closed descriptors, full disks."""
    good = good_words(tables)
    odd: dict[str, dict[str, str | None]] = {
        "no HOME": {"HOME": None, "HF_HOME": None}, "HOME in /proc": {"HOME": "/proc/x", "HF_HOME": "/proc/x", "XDG_CACHE_HOME": "/proc/x"},
        "HOME is a file": {"HOME": "/etc/passwd", "HF_HOME": "/etc/passwd/hf"}, "TMPDIR is nowhere": {"TMPDIR": "/nowhere/at/all"}, "no TMPDIR": {"TMPDIR": None},
        "LANG C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}, "LANG odd": {"LANG": "xx_YY.nope", "LC_ALL": "xx"}, "TERM odd": {"TERM": "no-such-terminal"}, "no TERM": {"TERM": None},
        "no columns": {"COLUMNS": "0"}, "one column": {"COLUMNS": "1", "LINES": "1"}, "columns that are none": {"COLUMNS": "wide"}, "many columns": {"COLUMNS": "999999"}, "columns below 0": {"COLUMNS": "-5"},
        "threads that are none": {"OMP_NUM_THREADS": "many"}, "no threads": {"OMP_NUM_THREADS": "0"}, "no PATH": {"PATH": None}, "PATH odd": {"PATH": "/nowhere"}, "no USER": {"USER": None, "LOGNAME": None},
        "RANK is none": {"RANK": "x", "WORLD_SIZE": "y"}, "RANK without WORLD_SIZE": {"RANK": "1"}, "WORLD_SIZE below 0": {"RANK": "0", "WORLD_SIZE": "-1"}, "RANK beyond WORLD_SIZE": {"RANK": "5", "WORLD_SIZE": "2", "LOCAL_RANK": "5", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        "CUDA devices odd": {"CUDA_VISIBLE_DEVICES": "x,y"}, "a proxy odd": {"http_proxy": "no such", "https_proxy": "no such"}, "a token odd": {"HF_TOKEN": "a b\tc"}, "an endpoint odd": {"HF_ENDPOINT": "no such"},
        "no colours": {"NO_COLOR": "1"}, "debugging": {"INHERITUNE_DEBUG": ""}, "matplotlib's folder in /proc": {"MPLCONFIGDIR": "/proc/x"}, "a backend odd": {"MPLBACKEND": "no-such"},
        "time odd": {"TZ": "No/Such"}, "an epoch odd": {"SOURCE_DATE_EPOCH": "x"}, "a log level odd": {"TRANSFORMERS_VERBOSITY": "loud"},
    }  # fmt: skip
    launched = ("RANK", "WORLD")
    for title, variables in odd.items():
        for command in (
            "inherit",
            "prepare",
            "evaluate",
            "train",
            "plan",
            "report",
            "push",
            "new",
            "run",
            "export",
            "analyze",
        ):
            wrong = title.startswith(launched)
            yield Case(
                f"environments: {command}: {title}", good[command], status=(0, 2) if wrong or title in ("an endpoint odd", "TMPDIR is nowhere", "HOME in /proc", "HOME is a file") else (0,),
                variables=variables, keeps=RECIPE_OUT, real=command == "plan" and title in ("LANG C", "no HOME"),
            )  # fmt: skip
            bad = (*good[command], "--no-such-option")
            yield Case(
                f"environments: {command}: {title}, and an error", bad, says=("no-such-option",), variables=variables
            )
    for command in ("inherit", "prepare", "evaluate", "train", "report", "new", "run", "export", "analyze"):
        yield Case(f"environments: {command}: control", good[command], status=(0,))
        for most in (1000, 3000, 20_000):  # what is said is in files too
            yield Case(
                f"environments: {command}: no file beyond {most} bytes", good[command], status=(0, 1), says=("space|large|full|again",), file_bytes=most,
                keeps=RECIPE_OUT if command in ("run", "train", "prepare") else (),
            )  # fmt: skip
    closed = {"input": (0,), "output": (1,), "errors": (2,), "all": (0, 1, 2)}
    for title, descriptors in closed.items():
        yield Case(f"environments: version: no {title}", ("--version",), status=(0,), closed=descriptors, real=True)
        yield Case(
            f"environments: bad recipe: no {title}", ("run", "nowhere.yaml"), status=(2,), closed=descriptors, real=True
        )
    yield Case("environments: plan: no output", good["plan"], status=(0, 1), closed=(1,), real=True)
