"""datatrove's Slurm executor, without the job that adds up its own statistics."""

from datatrove.executor.slurm import SlurmPipelineExecutor


class SlurmExecutor(SlurmPipelineExecutor):  # type: ignore[misc]
    """Submits the tasks of a stage as an array of jobs."""

    def launch_merge_stats(self) -> None:
        """Not submitted: nobody reads what it would write, and after a failed task it would wait in the queue."""
