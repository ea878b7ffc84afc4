"""How a target gets its weights: a selection of blocks and width, a plan of copies, and its application."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.inheritance.block_insertion import check_function_preserving, insert_blocks, is_grown
    from inheritune.inheritance.blocks import count_layers, select_blocks
    from inheritune.inheritance.derivation import (
        as_dtype,
        check_free,
        derive,
        derive_refitted,
        free_output,
        inherit_settings,
        plan_for,
    )
    from inheritune.inheritance.fitting import RIDGE, refit
    from inheritune.inheritance.making import (
        REFIT_TOKENS,
        Calibration,
        Made,
        calibration,
        describe_made,
        inherit,
        make,
        shaped,
        with_budget,
        with_shape,
        write,
    )
    from inheritune.inheritance.plan import Plan, TensorCopy, describe_plan, narrowed, plan_copies, plan_rows
    from inheritune.inheritance.refit_plan import (
        CalibrationText,
        check_can_be_refitted,
        refit_length,
        refitted_matrices,
    )
    from inheritune.inheritance.resolution import (
        above_budget,
        keeps_budget,
        replace_budget,
        resolve,
        size_of,
        without_budget,
    )
    from inheritune.inheritance.rotation import keep_magnitudes, rotate
    from inheritune.inheritance.target import PlannedTarget, TargetSpec, draft_target, target_config
    from inheritune.inheritance.vocabulary import TrimmedVocabulary, needed_tokens, trim_vocabulary

__getattr__, __dir__ = lazy.exports(__name__)
