"""A text with its place, and the handling of one that cannot be read."""

from collections.abc import Callable
from typing import Any, NamedTuple

from inheritune.data import Spans
from inheritune.errors import InputError
from inheritune.limits import DOCUMENT
from inheritune.recipe import Source

CHAT_KEYS = ("messages", "conversations", "conversation")
"""The usual keys of conversations."""


class Text(NamedTuple):
    """A document's text and its place, for messages and samples.

    `offset` is for a document that the source cut from a file: how many characters of the file are before it. `counted`
    is for a conversation: the stretches of characters whose tokens are targets.
    """

    place: str
    text: str
    offset: int | None = None
    counted: Spans | None = None


class Fault:
    """Called for each text that cannot be read: raises an error, or with `on_error: skip` counts the text."""

    def __init__(self, source: Source, skipped: Callable[[str, str], None]) -> None:
        self.stop, self.skipped = source.on_error == "stop", skipped

    def __call__(self, place: str, what: str, remedy: str) -> None:
        """Raise InputError, or report place and reason to `skipped` and return."""
        if self.stop:
            raise InputError(place, what, f"{remedy}, or set the source's `on_error: skip`")
        self.skipped(place, what)


def too_long(characters: int) -> tuple[str, str]:
    """What is wrong and the remedy, where a document is longer than the limit."""
    what = f"a document of {characters:,} characters, at most {DOCUMENT:,} are allowed"
    return what, "split it into several documents (in text files `document: 2K characters` does), or exclude it"


def no_column(text_key: str, columns: list[str]) -> tuple[str, str]:
    """What is wrong and the remedy, where a table has other columns."""
    return f"no column {text_key!r}; there are: {name_list(columns)}", _remedy("column", columns)


def no_text(record: Any, text_key: str) -> tuple[str, str]:
    """What is wrong and the remedy, where a record has no text."""
    if not isinstance(record, dict):
        remedy = 'write records as {"text": "..."}, or exclude the file'
        return f"a JSON {_kind(record)}, not an object with keys", remedy
    remedy = _remedy("key", list(record))
    if text_key not in record:
        return f"no text under {text_key!r}; the keys are: {name_list(list(record))}", remedy
    return f"no text under {text_key!r}, but {_kind(record[text_key])}", remedy


def _remedy(noun: str, names: list[str]) -> str:
    chat = next((name for name in CHAT_KEYS if name in names), None)
    if chat is not None:
        return f"for conversations set the source's `messages_key: {chat}`; for text name its {noun} with `text_key`"
    return f"name the {noun} that holds the text with the source's `text_key`"


def name_list(names: list[str]) -> str:
    """A list short enough for a line, even where the names are whole texts."""
    return ", ".join(repr(name[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "") or "none"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
