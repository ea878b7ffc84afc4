"""report/: a run as one HTML page that needs nothing else, and the same in Markdown."""

import re
import shlex
from pathlib import Path
from typing import Any

from inheritune.redaction import public, without_folders
from inheritune.report.analysis_page import about_text, attention_missing_of, ranks
from inheritune.report.curves import by_axis, merged
from inheritune.report.markup import recipe_for_readers
from inheritune.report.notation import duration, many, short, spans
from inheritune.report.run_files import Run, read_run
from inheritune.report.sections import BAD, GOOD, OPEN, Page, Sample, Section, write_folder
from inheritune.report.task_table import task_section
from inheritune.report.verdict import table, verdict

PAIR = ("reference", "target")
"""What the two models of a run are called, in the order in which they stand in its files."""


def write_report(folder: Path, summary: dict[str, Any] | None = None, out: Path | None = None) -> Path:
    """Write `folder`/report, or `out`, for a run, finished or not; returns the page's path.

    `summary` is given where summary.json is yet to be written. Raises as `read_run` does.
    """
    return write_folder(run_page(read_run(folder, summary)), folder / "report", out)


def run_page(run: Run) -> Page:
    """What there is of a run, the verdict first."""
    summary = run.summary
    name = summary["reference"]["name"] if summary["reference"] else run.folder.resolve().name
    sections = [
        _rounds(run),
        curves_section([("", run)]),
        _ranks(run),
        samples_section([("", run)]),
        task_section([("", run.tasks)]) if run.tasks else Section("Tasks"),
        _cost(run),
        _loading(run),
        _reproducing(run),
    ]
    return Page(f"Inheritune: {without_folders(name)}", [(verdict_colour(run), verdict(summary))], sections)


def verdict_colour(run: Run) -> str:
    """The mark of a run's verdict."""
    result = run.summary["result"]
    return OPEN if result is None else GOOD if result["matched"] else BAD


def _rounds(run: Run) -> Section:
    summary = run.summary
    header, rows = table(summary)
    notes = []
    if rows:
        notes.append(
            f"Validation loss in nats a token over {summary['validation_sequences']:,} sequences that no model was"
            " trained on; ± is one standard error over the sequences. The gap is the mean, sequence by sequence, of the"
            f" model's loss less the reference's; a model has matched when its gap is at most {summary['tolerance']:g}."
            " FLOPs are those of training."
        )
    return Section(
        "Rounds and controls", missing=run.under_way, tables=[("", header, rows)] if rows else [], notes=notes
    )


def curves_section(runs: list[tuple[str, Run]]) -> Section:
    """Validation losses on the way of one or several runs, on common axes; each run has a label ('' for none)."""
    together = merged([run.curves(label) for label, run in runs])
    every = " or ".join(dict.fromkeys(str(run.recipe["evaluate"]["every"]) for _, run in runs))
    shown = " or ".join(dict.fromkeys(f"{run.curve_sequences:,}" for _, run in runs))
    note = (
        f"Taken every {every} on the first {shown} validation sequences, as is the reference's line; the table judges"
        " on all of them. What rounds cost that a round went on from is counted."
    )
    return Section(
        "Validation loss during training",
        missing=together.missing(),
        by_axis=by_axis(together),
        notes=[note] if together.curves else [],
    )


def _ranks(run: Run) -> Section:
    """Rank curves of reference and target, by the analysis in the run's folder."""
    title = "Attention by layer"
    if run.analysis is None:
        return Section(title)
    models = run.analysis["models"]
    labels = list(PAIR[: len(models)])
    more = "analysis/index.html in the run's folder shows every head, and what each block is worth."
    note = f"{about_text(run.analysis)} {more}"
    return Section(
        title, missing=attention_missing_of(models, labels), rows=[ranks(run.analysis, labels)], notes=[note]
    )


def samples_section(runs: list[tuple[str, Run]]) -> Section:
    """The same prompts continued by the models of one or several runs."""
    found: dict[str, list[tuple[str, str]]] = {}
    tokens = set()
    for label, run in runs:
        if run.samples is None:
            continue
        tokens.add(run.samples["new_tokens"])
        for place, prompt in enumerate(run.samples["prompts"]):
            for model in run.samples["models"]:
                name = f"{label}: {model['name']}" if label else model["name"]
                found.setdefault(prompt, []).append((name, _shortened(model["continuations"][place])))
    about = (
        f"Each goes on greedily, with the likeliest token, for at most {' or '.join(map(str, sorted(tokens)))} tokens."
    )
    samples = [Sample(prompt, continued) for prompt, continued in found.items()]
    return Section("The same prompts, continued", about if samples else "", samples=samples)


def _shortened(text: str) -> str:
    """`text` with long runs of line breaks, which small models are fond of, counted."""
    return re.sub(r"\n{4,}", lambda found: f"\n[{len(found[0])} line breaks]\n", text)


def _cost(run: Run) -> Section:
    """What each training took, and what all took together."""
    summary = run.summary
    entries = [("reference", summary["reference"] or {})]
    entries += [(f"round {number}", found) for number, found in enumerate(summary["rounds"], 1)]
    entries += [(f"control: {found['name']}", found) for found in summary["controls"]]
    rows, seconds, flops = [], 0.0, 0.0
    for name, found in entries:
        if "flops" in found:  # of its own training alone
            rows.append([
                name, f"{found['tokens']:,}", f"{found['steps']:,}", f"{found['flops']:.3g}",
                f"{found['teacher_flops']:.3g}" if "teacher_flops" in found else "", duration(found["seconds"]),
                f"{found['tokens_per_second']:,.0f}",
            ])  # fmt: skip
            seconds, flops = seconds + found["seconds"], flops + found["flops"]
    if not rows:
        return Section("Cost")
    rows.append(["all trainings", "", "", f"{flops:.3g}", "", duration(seconds), ""])
    header = ["training", "tokens", "steps", "FLOPs", "teacher FLOPs", "time", "tokens/s"]
    notes = ["The time is that of the steps alone."]
    if "wall_seconds" in summary:
        memory = f"{summary['peak_memory_bytes'] / 1e9:.1f} GB"
        notes.append(
            f"The whole run, with text, evaluations and checkpoints, took {duration(summary['wall_seconds'])} and at"
            f" most {memory} of memory."
        )
    return Section("Cost", tables=[("", *without_empty(header, rows))], notes=notes)


def without_empty(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table less the columns in which nothing stands."""
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _loading(run: Run) -> Section:
    result, title = run.summary["result"], "The model"
    if result is None:
        return Section(title)
    folder = Path(run.folder.name) if run.folder.is_absolute() else run.folder  # a page is passed on: no home folder
    model = str(folder / result["model"])
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({model!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({model!r})"
    )
    best = next(found for found in run.summary["rounds"] if found["model"] == result["model"])
    about = (
        f"{many(result['layers'], 'block')}, {short(result['parameters'])} parameters. It began with the reference's"
    )
    about += f" blocks {spans(best['blocks'])}."
    return Section(title, about, code=[("", code)])


def _command(words: list[str]) -> str:
    """The command as it is typed: started as a module or a script, its first word is a file of this installation."""
    own = Path(words[0]).name in ("__main__.py", "inheritune")
    return shlex.join(public(["inheritune" if own else words[0], *words[1:]]))


def _reproducing(run: Run) -> Section:
    starts = run.manifest.get("starts") or []
    tables, code = [], []
    if starts:
        first = starts[0]
        facts = [[name, str(value)] for name, value in first["versions"].items()]
        facts += [
            [key, str(first[key])]
            for key in ("machine", "gpu", "device", "threads", "processes", "seed")
            if key in first
        ]
        lineage = run.manifest.get("lineage") or {}
        if lineage.get("revision"):
            facts.append(["reference's revision", lineage["revision"]])
        tables.append(("", ["what", "was"], facts))
        code.append(("It was started with", _command(first["command"])))
    code.append(
        (
            "With the recipe below as recipe.yaml, the same on the same machine and versions:",
            "inheritune run recipe.yaml",
        )
    )
    notes = [f"It was started {len(starts)} times; the first one is shown."] if len(starts) > 1 else []
    return Section(
        "How to reproduce it",
        tables=tables,
        code=code,
        notes=notes,
        folded=[("The recipe, with every default", recipe_for_readers(run.recipe_text))],
    )
