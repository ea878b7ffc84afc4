"""Make a smaller language model out of a larger one: inherit its blocks, train briefly, grow until it matches.

The functions are loaded when first used, so that `import inheritune` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inheritune.analysis import analyze as analyze
    from inheritune.conversion import export as export
    from inheritune.corpus import prepare as prepare
    from inheritune.evaluation import evaluate as evaluate
    from inheritune.experiment import compare as compare
    from inheritune.experiment import grow as grow
    from inheritune.experiment import run as run
    from inheritune.experiment import train as train
    from inheritune.inheritance import inherit as inherit
    from inheritune.recipe import load_recipe as load_recipe

__version__ = "0.1.0"

_HOMES = {
    "analyze": "inheritune.analysis",
    "compare": "inheritune.experiment",
    "evaluate": "inheritune.evaluation",
    "export": "inheritune.conversion",
    "grow": "inheritune.experiment",
    "inherit": "inheritune.inheritance",
    "load_recipe": "inheritune.recipe",
    "prepare": "inheritune.corpus",
    "run": "inheritune.experiment",
    "train": "inheritune.experiment",
}

__all__ = [
    "__version__",
    "analyze",
    "compare",
    "evaluate",
    "export",
    "grow",
    "inherit",
    "load_recipe",
    "prepare",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
