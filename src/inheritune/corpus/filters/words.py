"""datatrove's tokenizers, which split text into words and sentences, and the packages that filters need."""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from inheritune.errors import InputError

_EXTRA = ("fasteners", "fasttext-numpy2-wheel", "spacy")  # what inheritune[filters] installs


@cache
def _loaded(language: str) -> Any:
    # Not datatrove's cached one: its steps would be sent to the workers with all that it has loaded.
    from datatrove.utils.word_tokenizers import load_tokenizer_assignments

    return load_tokenizer_assignments()[language]()


@dataclass(frozen=True)
class SharedTokenizer:
    """A word tokenizer for datatrove's steps. It is loaded once in a process, as that takes most of a second, and each
    task has steps of its own.
    """

    language: str

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text, as datatrove's tokenizer of the language separates them."""
        words: list[str] = _loaded(self.language).word_tokenize(text)
        return words


def check_words(language: str, place: str) -> None:
    """Try the tokenizer of a language. Raises InputError at `place`.language where it is unknown or incomplete."""
    missing_packages({"spacy": "spacy"}, place)
    from datatrove.utils.word_tokenizers import load_tokenizer_assignments

    place = f"{place}.language"
    if language not in load_tokenizer_assignments():
        raise InputError(place, f"datatrove has no word tokenizer for {language!r}", "give an ISO 639 code such as en")
    try:
        _loaded(language).word_tokenize("a")
    except ImportError as error:
        command = re.search(r"pip install [^`)]+", str(error))
        remedy = command.group() if command else "install the package it names"
        raise InputError(place, f"the word tokenizer for {language!r} is not installed ({error})", remedy) from None
    except Exception as error:  # tokenizers that fetch data of their own on first use
        raise InputError(place, f"the word tokenizer for {language!r} fails ({error})", "see what it needs") from None


def missing_packages(packages: dict[str, str], place: str) -> None:
    """Raise InputError at `place` where a package is missing. `packages`: names on PyPI by names of modules."""
    installed = {(package.name or "").lower().replace("_", "-") for package in importlib.metadata.distributions()}
    # Both are checked: datatrove refuses a module of that name from another project's package.
    missing = [
        wheel
        for module, wheel in packages.items()
        if importlib.util.find_spec(module) is None or wheel not in installed
    ]
    if missing:
        extra = all(wheel in _EXTRA for wheel in missing)
        remedy = "pip install 'inheritune[filters]'" if extra else f"pip install {' '.join(missing)}"
        raise InputError(place, f"{' and '.join(missing)} not installed", remedy)
