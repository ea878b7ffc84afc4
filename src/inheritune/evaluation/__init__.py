"""Judging models: losses of validation sequences, bits per byte of any text, tasks; several models side by side."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.evaluation.api import evaluate, harness_facts
    from inheritune.evaluation.groups import Entry, expand, with_averages
    from inheritune.evaluation.judging import Evaluation, figures, gap_figures, judge, judge_on, mean_loss, scoring
    from inheritune.evaluation.reading import read_tokens, score
    from inheritune.evaluation.run_folder import trained_reference
    from inheritune.evaluation.samples import document_starts, greedy_answer, greedy_continuation, turn_ends
    from inheritune.evaluation.statistics import Estimate, decide, few_documents, gap, loss_of, mean, ratio
    from inheritune.evaluation.tasks import Task, check_names, judge_task, on_harness, open_tasks
    from inheritune.evaluation.vocabulary import (
        Split,
        VocabularyCost,
        compare_splits,
        compare_vocabularies,
        cost,
        text_losses,
    )

__getattr__, __dir__ = lazy.exports(__name__)
