"""How a target gets its weights: a selection of blocks, a plan of copies, and its application."""

from inheritune.inheritance.budget import settle, within
from inheritune.inheritance.derivation import (
    as_dtype,
    check_free,
    derive,
    free_output,
    inherit,
    make_wish,
    plan_for,
    write,
)
from inheritune.inheritance.draft import Draft, draft, target_config
from inheritune.inheritance.grafting import check_silencing, graft, is_grown
from inheritune.inheritance.plan import Exceptions, Line, Plan, describe_plan, narrowed, plan_copies, plan_rows
from inheritune.inheritance.selection import count_layers, select_blocks

__all__ = [
    "Draft",
    "Exceptions",
    "Line",
    "Plan",
    "as_dtype",
    "check_free",
    "check_silencing",
    "count_layers",
    "derive",
    "describe_plan",
    "draft",
    "free_output",
    "graft",
    "inherit",
    "is_grown",
    "make_wish",
    "narrowed",
    "plan_copies",
    "plan_for",
    "plan_rows",
    "select_blocks",
    "settle",
    "target_config",
    "within",
    "write",
]
