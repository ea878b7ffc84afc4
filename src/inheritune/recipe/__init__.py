"""What the user asks for: one model per part of a recipe, and the reading of recipe files."""

from inheritune.recipe.base import Part
from inheritune.recipe.data import Data, Slurm, Source, TokenFiles
from inheritune.recipe.file import changes, check, dump_recipe, load_recipe, override
from inheritune.recipe.filters import (
    C4,
    FILTERS,
    Classifier,
    CorpusFilter,
    Decontaminate,
    DocumentFilter,
    DocumentLength,
    ExactDuplicates,
    Filter,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    Language,
    NearDuplicates,
)
from inheritune.recipe.models import Basis, Hardware, Recipe
from inheritune.recipe.reference import NewReference, NewTokenizer, Reference
from inheritune.recipe.size import Size, parse_size
from inheritune.recipe.target import Choice, Evaluate, Grow, Inherit, Submodules, Width, parse_layers
from inheritune.recipe.training import Checkpoints, Distillation, Optimizer, Schedule, Training

__all__ = [
    "C4",
    "FILTERS",
    "Basis",
    "Checkpoints",
    "Choice",
    "Classifier",
    "CorpusFilter",
    "Data",
    "Decontaminate",
    "Distillation",
    "DocumentFilter",
    "DocumentLength",
    "Evaluate",
    "ExactDuplicates",
    "Filter",
    "FineWebQuality",
    "GopherQuality",
    "GopherRepetition",
    "Grow",
    "Hardware",
    "Inherit",
    "Language",
    "NearDuplicates",
    "NewReference",
    "NewTokenizer",
    "Optimizer",
    "Part",
    "Recipe",
    "Reference",
    "Schedule",
    "Size",
    "Slurm",
    "Source",
    "Submodules",
    "TokenFiles",
    "Training",
    "Width",
    "changes",
    "check",
    "dump_recipe",
    "load_recipe",
    "override",
    "parse_layers",
    "parse_size",
]
