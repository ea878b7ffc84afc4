"""How a target gets its weights: a selection of blocks, a plan of copies, and its application."""

from inheritune.inheritance.derivation import check_free, derive, inherit, shorten_for
from inheritune.inheritance.plan import Copy, Plan, describe_plan, plan_copies
from inheritune.inheritance.selection import count_layers, select_blocks

__all__ = [
    "Copy",
    "Plan",
    "check_free",
    "count_layers",
    "derive",
    "describe_plan",
    "inherit",
    "plan_copies",
    "select_blocks",
    "shorten_for",
]
