"""A whole recipe, stage by stage, each of which is done once and read back when the run goes on."""

from inheritune.groundwork import prepare_data
from inheritune.pipeline.planning import plan_recipe
from inheritune.pipeline.preflight import check_inputs
from inheritune.pipeline.stages import run
from inheritune.pipeline.starter import starter_recipe
from inheritune.pipeline.tasks import TASKS_FILE
from inheritune.pipeline.trial import dry_run, try_step

__all__ = ["TASKS_FILE", "check_inputs", "dry_run", "plan_recipe", "prepare_data", "run", "starter_recipe", "try_step"]
