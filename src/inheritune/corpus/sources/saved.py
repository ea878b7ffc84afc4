"""Folders that `datasets` wrote with `save_to_disk`: a data set, or several splits of one."""

import json
from collections.abc import Callable
from typing import Any

from inheritune.corpus.sources.storage import Damaged

_SPLITS, STATE = "dataset_dict.json", "state.json"
SAVED = (_SPLITS, STATE)  # a folder with one of these is such a folder
DEFAULT_SPLIT = "train"
_AGAIN = "write it again with `save_to_disk`"


def saved_files(split: str, content: Callable[[str], bytes | None]) -> list[str] | None:
    """The Arrow files of a saved data set in their order, by their names below its folder; of several splits those of
    `split`. None for another folder.

    `content` gives the bytes of a file below the folder, None where it is missing. Raises Damaged for a split that
    does not exist, and for damaged files.
    """
    splits = _read(content, _SPLITS)
    if splits is not None:
        names = splits.get("splits")
        if not isinstance(names, list):
            raise Damaged(f"its {_SPLITS} names no splits", _AGAIN)
        if split not in names:
            there = ", ".join(map(str, names)) or "none"
            raise Damaged(f"no split {split!r}; there are: {there}", "name one with the source's `split`")
        files = _shards(content, f"{split}/")
        if files is None:
            raise Damaged(f"its split {split!r} has no {STATE}", _AGAIN)
        return files
    files = _shards(content, "")
    if files is not None and split != DEFAULT_SPLIT:
        its = (_read(content, STATE) or {}).get("_split")
        if its != split:
            what = f"no split {split!r}: it is a single data set" + (f", saved of split {its!r}" if its else "")
            raise Damaged(what, "remove `split`")
    return files


def _shards(content: Callable[[str], bytes | None], below: str) -> list[str] | None:
    state = _read(content, below + STATE)
    if state is None or "_data_files" not in state:
        return None
    if state.get("_indices_data_files"):
        raise Damaged("an old version of `datasets` saved it as a selection of rows", f"load it and {_AGAIN}")
    try:
        return [below + str(entry["filename"]) for entry in state["_data_files"]]
    except (TypeError, KeyError):
        raise Damaged(f"its {below}{STATE} names no files", _AGAIN) from None


def _read(content: Callable[[str], bytes | None], name: str) -> dict[str, Any] | None:
    raw = content(name)
    if raw is None:
        return None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else None
