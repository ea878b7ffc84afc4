"""What the user asks for: one model per part of a recipe, and the reading of recipe files."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.losses import Distillation
    from inheritune.optimizers import Optimizer
    from inheritune.recipe.budget import Budget, Speed, Work
    from inheritune.recipe.data import Data, Slurm, Source, TokenFiles
    from inheritune.recipe.file import changes, check, completed, dump_recipe, is_suite, merged, model_at, override
    from inheritune.recipe.filters import FILTERS, FilterConfig
    from inheritune.recipe.models import Basis, Hardware, Recipe, load_recipe, reference_training
    from inheritune.recipe.recovery import Recovery, RecoveryKind
    from inheritune.recipe.reference import NewReference, NewTokenizer, Reference
    from inheritune.recipe.renamed import with_new_names
    from inheritune.recipe.target import (
        MEASURED,
        Choice,
        Evaluate,
        EvaluateRun,
        Grow,
        Inherit,
        Layers,
        Submodules,
        parse_layers,
    )
    from inheritune.recipe.training import Checkpoints, Schedule, Training
    from inheritune.recipe.widths import FIRST_HALF, HALF, ChosenWidths, Widths, vocabulary_count
    from inheritune.settings import Part, Size, parse_size

__getattr__, __dir__ = lazy.exports(__name__)
