"""Several folders on one page: verdicts first, a row for each, curves on common axes, analyses overlaid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inheritune.redaction import without_folders
from inheritune.report.analysis_measures import BLOCK_MEASURES, GRADIENTS, attention_measures
from inheritune.report.analysis_page import attention_missing_of, labels_of, lines_of, read_analysis, verdicts_of
from inheritune.report.analysis_verdict import models_table
from inheritune.report.comparison import (
    comparison_colour,
    comparison_table,
    comparison_verdict,
    curves_of,
    notes_on,
    read_comparison,
)
from inheritune.report.curves import by_axis, merged
from inheritune.report.notation import duration, short, with_error
from inheritune.report.page import PAIR, curves_section, samples_section, verdict_colour, without_empty
from inheritune.report.run_files import Run, read_run
from inheritune.report.sections import Page, Section
from inheritune.report.task_table import task_section
from inheritune.report.verdict import table, verdict


@dataclass(frozen=True)
class Folders:
    """What is shown together, each with its label."""

    runs: list[tuple[str, Run]]
    comparisons: list[tuple[str, Path, dict[str, Any]]]
    analyses: list[tuple[str, dict[str, Any]]]

    @property
    def labels(self) -> list[str]:
        """What all of them are called."""
        return [
            *(label for label, _ in self.runs),
            *(label for label, _, _ in self.comparisons),
            *(label for label, _ in self.analyses),
        ]


def read_folders(kinds: list[tuple[str, Path, str]]) -> Folders:
    """Read (label, folder, kind) of each. Raises as `read_run`, `read_comparison` and `read_analysis` do."""
    return Folders(
        [(label, read_run(folder)) for label, folder, kind in kinds if kind == "run"],
        [(label, folder, read_comparison(folder)) for label, folder, kind in kinds if kind == "comparison"],
        [(label, read_analysis(folder / "analysis.json")) for label, folder, kind in kinds if kind == "analysis"],
    )


def joint_page(found: Folders) -> Page:
    """The page of all of them."""
    analyses = _all_analyses(found)
    verdicts = [(verdict_colour(run), f"{label}: {verdict(run.summary)}") for label, run in found.runs]
    verdicts += [(comparison_colour(one), f"{label}: {comparison_verdict(one)}") for label, _, one in found.comparisons]
    verdicts += verdicts_of(*_models(found.analyses))
    tasks = [(label, run.tasks) for label, run in found.runs if run.tasks]
    sections = [
        _runs(found.runs),
        _arms(found.comparisons),
        _curves(found),
        *_analysed(analyses),
        samples_section(found.runs),
        task_section(tasks) if tasks else Section("Tasks"),
    ]
    return Page(f"Side by side: {', '.join(found.labels)}", verdicts, sections)


def stacked(tables: list[tuple[str, list[str], list[list[str]]]]) -> tuple[list[str], list[list[str]]]:
    """Tables as one with all their columns, each row's name behind its table's label."""
    names = list(dict.fromkeys(name for _, header, _ in tables for name in header))
    rows = []
    for label, header, body in tables:
        for row in body:
            cells = dict(zip(header, row, strict=True))
            rows.append([f"{label}: {row[0]}", *(cells.get(name, "") for name in names[1:])])
    return names, rows


def _runs(runs: list[tuple[str, Run]]) -> Section:
    """A row for each run, then one for each model of all runs."""
    title = "Runs"
    if not runs:
        return Section(title)
    rows = [[label, *_row(run)] for label, run in runs]
    header = [
        "run", "reference", "its loss", "blocks", "params", "tokens", "FLOPs", "val. loss", "gap", "matched", "took",
        "memory",
    ]  # fmt: skip
    models = [(label, *table(run.summary)) for label, run in runs]
    tables = [("", *without_empty(header, rows))]
    if any(body for _, _, body in models):
        names, body = stacked(models)
        tables.append(("Rounds and controls", *without_empty(names, body)))
    notes = [_same_text(runs)] if len(runs) > 1 else []
    return Section(
        title, missing=[f"{label}: {said}" for label, run in runs for said in run.under_way], tables=tables, notes=notes
    )


def _row(run: Run) -> list[str]:
    """Cells of a run, its result's for the figures."""
    summary = run.summary
    reference, result = summary["reference"], summary["result"]
    cells = (
        ["", ""]
        if reference is None
        else [without_folders(reference["name"]), with_error(reference["val_loss"], reference["val_loss_se"])]
    )
    if result is None:
        return [*cells, *[""] * 9]
    best = next(found for found in summary["rounds"] if found["model"] == result["model"])
    return [
        *cells,
        f"{result['layers']} of {reference['layers']}",
        short(result["parameters"]),
        short(best["tokens"] + best.get("tokens_before", 0)),
        f"{best['flops'] + best.get('flops_before', 0):.2g}",
        with_error(result["val_loss"], result["val_loss_se"]),
        with_error(result["gap"], result["gap_se"], sign=True),
        ("yes" if result["matched"] else "no") + ("" if summary["finished"] else ", so far"),
        duration(summary["wall_seconds"]),
        f"{summary['peak_memory_bytes'] / 1e9:.1f} GB",
    ]


def _same_text(runs: list[tuple[str, Run]]) -> str:
    """Whether the runs' losses compare: by the checksums of their validation shards, where all manifests have them."""
    seen = [_validation_text(run) for _, run in runs]
    lengths = {run.recipe["train"]["sequence_length"] for _, run in runs}
    if not all(seen):
        return "Whether the runs were judged on the same text is not known; their losses compare only if they were."
    if all(one == seen[0] for one in seen) and len(lengths) == 1:
        return "All runs were judged on the same validation sequences."
    return "The runs were judged on different validation sequences: compare their gaps, not their losses."


def _validation_text(run: Run) -> str:
    """What tells one run's validation text from another's: the sums of its shards; empty where they are not known."""
    shards = (run.manifest.get("lineage") or {}).get("data") or {}
    sums = sorted(found[:8] for name, found in shards.items() if name.startswith("validation"))
    return f"validation text {', '.join(sums)}" if sums else ""


def _arms(comparisons: list[tuple[str, Path, dict[str, Any]]]) -> Section:
    known = [(label, found) for label, _, found in comparisons if found["reference"] is not None]
    if not known:
        return Section("Arms")
    tables = [(label, *comparison_table(found)) for label, found in known]
    several = len(known) > 1
    notes = [f"{label}: {note}" if several else note for label, found in known for note in notes_on(found)]
    return Section("Arms", tables=[("", *stacked(tables))], notes=notes)


def _curves(found: Folders) -> Section:
    """All curves on common axes."""
    if not found.comparisons:
        return curves_section(found.runs) if found.runs else Section("Validation loss during training")
    together = [run.curves(label) for label, run in found.runs]
    together += [curves_of(folder, one, label) for label, folder, one in found.comparisons]
    curves = merged(together)
    note = "Taken on the first validation sequences of each, of arms as means over the seeds; the tables judge on all."
    return Section(
        "Validation loss during training",
        missing=curves.missing(),
        by_axis=by_axis(curves),
        notes=[note] if curves.curves else [],
    )


def _all_analyses(found: Folders) -> list[tuple[str, dict[str, Any]]]:
    """The analyses named, and those in the runs' folders, whose models are called as runs call them."""
    of_runs = []
    for label, run in found.runs:
        if run.analysis is not None:
            models = [model | {"name": name} for model, name in zip(run.analysis["models"], PAIR, strict=False)]
            text = run.analysis["text"] | {"source": _validation_text(run) or run.analysis["text"]["source"]}
            of_runs.append((label, run.analysis | {"models": models, "text": text}))
    return [*found.analyses, *of_runs]


def _models(analyses: list[tuple[str, dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[str]]:
    """All models, and what they are called."""
    models, labels = [], []
    for label, facts in analyses:
        models += facts["models"]
        labels += [f"{label}: {name}" for name in labels_of(facts["models"])]
    return models, labels


def _analysed(analyses: list[tuple[str, dict[str, Any]]]) -> list[Section]:
    """Analyses overlaid: attention by layer and what a block is worth, a colour for each model."""
    if not analyses:
        return []
    models, labels = _models(analyses)
    taus = [tau for tau in analyses[0][1]["tau"] if all(tau in facts["tau"] for _, facts in analyses)]
    texts = {(t["source"], t["sequences"], t["sequence_length"]) for t in (facts["text"] for _, facts in analyses)}
    missing = attention_missing_of(models, labels)
    if not taus:
        missing.append("Ranks were taken at different shares of the norm (tau), so they are not drawn together.")
    measures = [measure for measure in attention_measures(taus or [0.0]) if taus or measure.name != "max-rank"]
    if len(texts) > 1:
        said = "; ".join(
            f"{label}: {text['sequences']} x {text['sequence_length']} tokens from {text['source']}"
            for label, text in ((label, facts["text"]) for label, facts in analyses)
        )
        missing.append(f"The analyses saw different texts, so that part of a difference is the text's: {said}.")
    return [
        Section(
            "Attention by layer",
            "",
            missing,
            [lines_of(measures, models, labels)],
            tables=[("", *models_table(models, labels))],
        ),
        Section("What a block is worth", rows=[lines_of(BLOCK_MEASURES, models, labels)]),
        Section("Gradients", rows=[lines_of([GRADIENTS], models, labels)]),
    ]
