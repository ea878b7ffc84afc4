"""How a target gets its weights: a selection of blocks, a plan of copies, and its application."""

from inheritune.inheritance.block_insertion import check_silencing, insert_blocks, is_grown
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
from inheritune.inheritance.plan import Exceptions, Plan, TensorCopy, describe_plan, narrowed, plan_copies, plan_rows
from inheritune.inheritance.selection import count_layers, select_blocks

__all__ = [
    "Draft",
    "Exceptions",
    "Plan",
    "TensorCopy",
    "as_dtype",
    "check_free",
    "check_silencing",
    "count_layers",
    "derive",
    "describe_plan",
    "draft",
    "free_output",
    "inherit",
    "insert_blocks",
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
