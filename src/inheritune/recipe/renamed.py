"""Keys that had another name in earlier versions."""

from typing import Any

from inheritune.recipe.widths import FIRST_HALF

RENAMED: dict[tuple[str, str], str] = {
    ("grow", "silent"): "function_preserving",
    ("rounds", "silent"): "function_preserving",  # what Python's `grow` calls the same settings
}
"""The key above and the old name, to the new name."""
REPLACED: dict[tuple[str, str], str] = dict.fromkeys(
    (("inherit", "width"), ("start", "width")),
    "half of everything is heads: 0.5, mlp: 0.5, hidden: 0.5, importance: first now; the full width needs no key",
)
"""The key above and the old name, to what is written instead."""


def with_new_names(tree: Any, above: str = "") -> Any:
    """Settings that an earlier version saved, with each key under its name of today."""
    if isinstance(tree, list):
        return [with_new_names(entry, above) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    halved = FIRST_HALF if (above, "width") in REPLACED and tree.get("width") == "half" else {}
    names = {RENAMED.get((above, key), key): value for key, value in tree.items() if (above, key) not in REPLACED}
    return {key: with_new_names(value, str(key)) for key, value in names.items()} | halved
