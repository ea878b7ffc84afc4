"""What the card of another model states. A stranger wrote it, so illegal values are left out and reported."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inheritune.errors import InputError
from inheritune.limits import check_front_matter
from inheritune.redaction import without_secrets
from inheritune.runlog import is_own

_LONGEST = 100_000  # characters of a card's metadata; YAML takes seconds for a megabyte
_LARGEST = 5_000_000  # bytes of a card
_MOST = 50  # entries of a list
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_NAME = re.compile(r"\w[\w .,()+/-]{0,99}")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9][^\s<>\"'`|\\()\[\]{}]{0,300}")
_FILE = re.compile(r"\w[\w.-]{0,99}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*|code|multilingual")
_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


def hub_id(value: Any) -> str | None:
    """`value` where it can be the id of a repository on the hub, OWNER/NAME; else None."""
    return value if isinstance(value, str) and _HUB_ID.fullmatch(value) and ".." not in value else None


def licence_id(value: Any) -> str | list[str] | None:
    """`value` where it is one id of a licence, or a list of them; else None."""
    return _one_or_more(value, _ID)


def licence_name(value: Any) -> str | None:
    """`value` where it can be the name of a licence; else None."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def licence_link(value: Any) -> str | None:
    """`value` where it is an address on the web without credentials, or the name of a file; else None."""
    if not isinstance(value, str) or not (_ADDRESS.fullmatch(value) or _FILE.fullmatch(value)):
        return None
    return value if without_secrets(value).replace("?[redacted]", "") in value else None


def languages(value: Any) -> str | list[str] | None:
    """`value` where it is the code of a language, or a list of them; else None. YAML reads Norwegian's as false."""
    if isinstance(value, list):
        value = ["no" if entry is False else entry for entry in value]
    return _one_or_more("no" if value is False else value, _LANGUAGE)


def _tags(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(entry, str) for entry in value) else None


def _one_or_more(value: Any, form: re.Pattern[str]) -> str | list[str] | None:
    entries = value if isinstance(value, list) else [value]
    legal = 0 < len(entries) <= _MOST and all(isinstance(entry, str) and form.fullmatch(entry) for entry in entries)
    return value if legal else None


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "license": licence_id,
    "license_name": licence_name,
    "license_link": licence_link,
    "language": languages,
    "base_model": hub_id,
    "tags": _tags,
}


def stated(card: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a model's README.md that are used here and legal, and what was left out, in words.

    Nothing in the file makes this fail.
    """
    if card is None:
        return {}, []
    if not is_own(card, card.parent):
        return {}, [f"the file {card.name}, a link that leads out of its folder"]
    metadata = _metadata(card)
    if metadata is None:
        return {}, [f"all metadata of {card.name}, which cannot be read as such"]
    return legal_fields(metadata, _FIELDS, f"the field {{}} of {card.name}")


def legal_fields(
    values: Mapping[Any, Any], checks: Mapping[str, Callable[[Any], Any]], place: str
) -> tuple[dict[str, Any], list[str]]:
    """The values that have a check and pass it, by name, and what was left out, in words; `place` names a field."""
    fields, left_out = {}, []
    for name, check in checks.items():
        if values.get(name) in (None, "", []):
            continue
        value = check(values[name])
        if value is None:
            left_out.append(f"{place.format(name)}, which holds something else than it should")
        else:
            fields[name] = value
    return fields, left_out


def _metadata(card: Path) -> dict[Any, Any] | None:
    """The metadata, {} where there is none; None where it is damaged or too long."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    try:
        if card.stat().st_size > _LARGEST:
            return None
        check_front_matter(card)
        block = REGEX_YAML_BLOCK.search(card.read_text(encoding="utf-8", errors="replace"))
        if block is None:
            return {}
        metadata = yaml.safe_load(block.group(2)) if len(block.group(2)) <= _LONGEST else 0
    except (InputError, OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    if metadata is None:
        return {}
    return metadata if isinstance(metadata, dict) else None
