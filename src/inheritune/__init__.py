"""Make a smaller language model out of a larger one: inherit its blocks, train briefly, grow until it matches.

The functions are loaded when first used, so that `import inheritune` is cheap. They report to the logger
"inheritune": `logging.basicConfig(level="INFO")` shows all of it; without, warnings alone appear on standard error.
"""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.analysis import analyze
    from inheritune.conversion import export, export_gguf
    from inheritune.corpus import prepare
    from inheritune.evaluation import evaluate
    from inheritune.experiment import compare, grow, run, train
    from inheritune.inheritance import inherit
    from inheritune.recipe import load_recipe

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "analyze",
    "compare",
    "evaluate",
    "export",
    "export_gguf",
    "grow",
    "inherit",
    "load_recipe",
    "prepare",
    "run",
    "train",
]
__getattr__, __dir__ = lazy.exports(__name__)
