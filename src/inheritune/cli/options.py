"""What several commands have in common: options, overrides of the recipe, the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inheritune.redaction import visible_text, without_secrets
from inheritune.runtime import place_of_process

if TYPE_CHECKING:
    from inheritune.runlog import Terminal

DOTTED: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working; errors are still said.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Do one real step on random weights and tokens; print memory and rate.")
]
Calibration = Annotated[str, typer.Option(help="Tokens that a measured choice sees; all where there are fewer.")]
Recovery = Annotated[
    str, typer.Option(help="Tokens that the blocks left train on, behind each that auto drops; none: not at all.")
]
Prefix = Annotated[
    str,
    typer.Option(help="auto: each sequence begins with the tokens that the tokenizer adds to a text; none: without."),
]
Trust = Annotated[
    bool, typer.Option(help="Run model code that comes with the checkpoint. Only for sources that you trust.")
]


def terminal_of(quiet: bool) -> "Terminal":
    """The terminal of this process: of several, the first one speaks."""
    from inheritune.runlog import Terminal

    return Terminal(quiet or place_of_process()[0] > 0)


def overrides(words: Sequence[str]) -> list[str]:
    """The words after the options: all must be --dotted.key=value, or --dotted.key value."""
    from inheritune.errors import InputError

    words, found = list(words), []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise InputError("command line", f"unexpected word {word!r}", "override a key as --dotted.key=value")
        if "=" not in word:
            if not words or words[0].startswith("--"):
                raise InputError(
                    "command line",
                    f"no such option: {word}",
                    "options are listed by --help; a key is set as --dotted.key=value",
                )
            word = f"{word}={words.pop(0)}"
        found.append(word)
    return found


def echo(text: str, err: bool = False) -> None:
    """A text for people on standard output, without credentials; control characters are shown as escapes."""
    typer.echo(visible_text(without_secrets(text)), err=err)
