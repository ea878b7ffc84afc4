"""Keys that had another name in earlier versions."""

from typing import Any

RENAMED: dict[tuple[str, str], str] = {
    ("grow", "silent"): "function_preserving",
    ("rounds", "silent"): "function_preserving",  # what Python's `grow` calls the same settings
}
"""The key above and the old name, to the new name."""


def with_new_names(tree: Any, above: str = "") -> Any:
    """Settings that an earlier version saved, with each key under its name of today."""
    if isinstance(tree, list):
        return [with_new_names(entry, above) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    return {RENAMED.get((above, key), key): with_new_names(value, str(key)) for key, value in tree.items()}
