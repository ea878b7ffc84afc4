"""Runs and comparisons: planned, priced, trained, judged and resumed.

A run is one grown arm and its controls; a comparison is a suite of arms. `methods/` holds how an arm can start.
"""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.experiment.api import grow, inherited_blocks, train
    from inheritune.experiment.pricing import plan_recipe, plan_suite
    from inheritune.experiment.recipe_run import run
    from inheritune.experiment.setup import prepare_data
    from inheritune.experiment.starter import starter_recipe
    from inheritune.experiment.suite import Suite, load_suite
    from inheritune.experiment.suite_run import compare
    from inheritune.experiment.tasks import TASKS_FILE
    from inheritune.experiment.trial import dry_run, try_step

__getattr__, __dir__ = lazy.exports(__name__)
