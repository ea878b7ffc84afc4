"""What the user asks for: one model per part of a recipe, and the reading of recipe files."""

from inheritune.recipe.base import Part
from inheritune.recipe.data import Data, Source, TokenFiles
from inheritune.recipe.file import check, dump_recipe, load_recipe, override
from inheritune.recipe.models import Hardware, Recipe
from inheritune.recipe.reference import NewReference, NewTokenizer, Reference
from inheritune.recipe.size import Size, parse_size
from inheritune.recipe.target import Choice, Evaluate, Grow, Inherit, Submodules, Width, parse_layers
from inheritune.recipe.training import Checkpoints, Optimizer, Schedule, Training

__all__ = [
    "Checkpoints",
    "Choice",
    "Data",
    "Evaluate",
    "Grow",
    "Hardware",
    "Inherit",
    "NewReference",
    "NewTokenizer",
    "Optimizer",
    "Part",
    "Recipe",
    "Reference",
    "Schedule",
    "Size",
    "Source",
    "Submodules",
    "TokenFiles",
    "Training",
    "Width",
    "check",
    "dump_recipe",
    "load_recipe",
    "override",
    "parse_layers",
    "parse_size",
]
