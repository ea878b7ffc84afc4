"""Small text in many tasks and parts, as much text has them; and cut documents with their ends again."""

import pytest

from inheritune.corpus.building import preparation


def cut_small(patch: pytest.MonkeyPatch, task: int | None, part: int) -> None:
    """Tasks of so many bytes of input, None: as ever, and parts of so many bytes of candidates."""
    if task is not None:
        patch.setattr(preparation, "_TASK_BYTES", task)
    patch.setattr(preparation, "_PART_BYTES", part)


def completed(beginnings: list[str], whole: list[str]) -> list[str]:
    """For each beginning the text that goes on so, each text once; the beginning itself where there is none."""
    left, found = list(whole), []
    for beginning in sorted(beginnings, key=len, reverse=True):
        match = next((text for text in left if text.startswith(beginning)), beginning)
        found.append(match)
        if match in left:
            left.remove(match)
    return found
