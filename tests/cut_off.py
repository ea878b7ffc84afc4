"""Work that is cut off from outside: at a line of its log, or when a file is to get its name."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import heard


class Killed(BaseException):
    pass


@contextmanager
def cut_off_at(begins: str, error: type[BaseException] = Killed) -> Iterator[None]:
    """Inside, a line of the log that begins so raises the error."""

    def hear(line: str) -> None:
        if line.startswith(begins):
            raise error

    with heard(hear):
        yield


@contextmanager
def cut_off_at_file(number: int, wanted: Callable[[Path], bool], error: type[BaseException] = Killed) -> Iterator[None]:
    """Inside, the error comes when the file of this number, from 1, of those `wanted` is to appear at its place."""
    real, appeared = os.replace, 0

    def replace(source: Any, target: Any, **more: Any) -> None:
        nonlocal appeared
        appeared += wanted(Path(target))
        if wanted(Path(target)) and appeared == number:
            raise error
        real(source, target, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield
