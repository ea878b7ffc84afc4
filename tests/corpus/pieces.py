"""Small text in many tasks and parts, as much text has them."""

import pytest

from inheritune.corpus.building import preparation


def cut_small(patch: pytest.MonkeyPatch, task: int | None, part: int) -> None:
    """Tasks of so many bytes of input, None: as ever, and parts of so many bytes of candidates."""
    if task is not None:
        patch.setattr(preparation, "_TASK_BYTES", task)
    patch.setattr(preparation, "_PART_BYTES", part)
