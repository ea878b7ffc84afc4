"""What several commands have in common: options, overrides of the recipe, the log, results."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from inheritune import recipe as recipes
from inheritune.errors import InputError
from inheritune.redaction import visible_text, without_secrets
from inheritune.runlog import logger
from inheritune.runtime import place_of_process

DOTTED: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing while working, except errors.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Do one real step on random weights and tokens; print memory and rate.")
]
Calibration = Annotated[str, typer.Option(help="Tokens that a measured choice sees; all, if the text has fewer.")]
Recovery = Annotated[
    str, typer.Option(help="Tokens that the remaining blocks train on after auto drops one; none: no training.")
]
Prefix = Annotated[
    str,
    typer.Option(help="auto: each sequence begins with the tokens that the tokenizer adds to a text; none: without."),
]
Trust = Annotated[
    bool, typer.Option(help="Run model code that comes with the checkpoint. Only for sources that you trust.")
]
Tokenizer = Annotated[str | None, typer.Option(help="Where the tokenizer is, if not with the model.")]
Revision = Annotated[str | None, typer.Option(help="The hub revision: a branch, tag or commit.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16. auto: float32, on a GPU bfloat16.")]


def reference_of(
    path: str, tokenizer: str | None, revision: str | None, trust_remote_code: bool
) -> "recipes.Reference":
    """The model that a command names. Raises InputError where the options do not go together."""
    fields = {"path": path, "tokenizer": tokenizer, "revision": revision, "trust_remote_code": trust_remote_code}
    return recipes.check(recipes.Reference, fields, "command line")


def is_first_process() -> bool:
    """Whether this process prints: of several, the first one does."""
    return place_of_process()[0] == 0


def show_log(quiet: bool = False) -> None:
    """From now on the first process shows all of the log, or nothing if `quiet`; other processes show nothing."""
    logger.setLevel(logging.CRITICAL if quiet or not is_first_process() else logging.INFO)


def overrides(words: Sequence[str]) -> list[str]:
    """The words after the options: all must be --dotted.key=value, or --dotted.key value."""
    words, assignments = list(words), []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise InputError("command line", f"unexpected word {word!r}", "override a key as --dotted.key=value")
        if "=" not in word:
            if not words or words[0].startswith("--"):
                remedy = "options are listed by --help; a key is set as --dotted.key=value"
                raise InputError("command line", f"no such option: {word}", remedy)
            word = f"{word}={words.pop(0)}"
        assignments.append(word)
    return assignments


def echo(text: str) -> None:
    """Print a text for people on standard output, without credentials; control characters are shown as escapes."""
    typer.echo(visible_text(without_secrets(text)))


def print_result(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print a result on standard output of the first process: as JSON, or by `show`."""
    if not is_first_process():
        return
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        show()
