"""The analysis as one HTML page that needs nothing else, and the same in Markdown with its figures beside it."""

import zipfile
from pathlib import Path
from typing import Any

from inheritune.errors import DamagedFile, InputError
from inheritune.redaction import without_folders
from inheritune.report.analysis_lines import draw_measure
from inheritune.report.analysis_maps import draw_attention, draw_distances, draw_heads, reduction
from inheritune.report.analysis_measures import BLOCK_MEASURES, GRADIENTS, HEAD_MEASURES, Measure, attention_measures
from inheritune.report.analysis_verdict import (
    analysis_verdict,
    attention_missing,
    dropped_table,
    layers_table,
    models_table,
    what_is_missing,
)
from inheritune.report.figures import COLOURS
from inheritune.report.sections import Page, Panel, Section, write_page
from inheritune.runlog import read_mapping

_FORMAT = 1
_REMEDY = "analyse the model again"


def write_analysis(folder: Path, out: Path | None = None) -> Path:
    """Write index.html, analysis.md and figures/ into `out` (default: `folder`) from `folder`/analysis.json and the
    maps beside it; returns the page's path.

    Raises InputError where there is no such file or it is of another format, DamagedFile where a file is damaged.
    """
    facts = read_analysis(folder / "analysis.json")
    models = facts["models"]
    labels = labels_of(models)
    sections = [
        Section("", tables=[("", *models_table(models, labels))], notes=[about_text(facts)]),
        Section("Attention by layer", "", attention_missing_of(models, labels), [ranks(facts, labels)]),
        _by_head(facts, labels),
        _worth(models, labels),
        _gradients(models, labels),
        _attention(folder, models, labels),
        _selections(models, labels),
        _layers(facts, labels),
    ]
    page = Page(f"Which layers work: {', '.join(labels)}", verdicts_of(models, labels), sections)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    return write_page(page, out or folder, "analysis.md")


def read_analysis(path: Path) -> dict[str, Any]:
    """What analysis.json holds.

    Raises InputError where there is none or it is of another format, DamagedFile where it is damaged.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file", "`inheritune analyze MODEL --out FOLDER` writes it")
    facts = read_mapping(path, remedy=_REMEDY)
    if facts.get("format") != _FORMAT:
        given = facts.get("format")
        raise InputError(str(path), f"is of format {given}, not {_FORMAT}", "analyse the model again with this version")
    return read_mapping(path, "models", "text", "tau", remedy=_REMEDY)


def verdicts_of(models: list[dict[str, Any]], labels: list[str]) -> list[tuple[str, str]]:
    """A verdict for each model, marked with the colour that it has in the charts."""
    return [
        (COLOURS[number % len(COLOURS)], analysis_verdict(model, label))
        for number, (model, label) in enumerate(zip(models, labels, strict=True))
    ]


def labels_of(models: list[dict[str, Any]]) -> list[str]:
    """Names that tell the models apart: the path where two have one name, numbered where that is the same too."""
    names = [model["name"] for model in models]
    labels = [without_folders(m["path"] if names.count(m["name"]) > 1 else m["name"]) for m in models]
    return [f"{label} ({number})" if labels.count(label) > 1 else label for number, label in enumerate(labels, 1)]


def about_text(facts: dict[str, Any]) -> str:
    """On which text, and what the words mean, in sentences."""
    text, tau = facts["text"], facts["tau"][0]
    many = text["sequences"] > 1
    said = f"{text['sequences']} {'sequences' if many else 'sequence'} of {text['sequence_length']} tokens from"
    said += f" {without_folders(text['source'])}; losses on {text['loss_sequences']} of them, in nats a token."
    said += " ± is one standard error over sequences." if many else " One sequence has no standard error."
    said += f" A head's rank is the least number of singular directions that hold {tau:.4g} (tau) of its attention"
    said += " matrix's squared norm, averaged over sequences; a head has collapsed when its rank is below"
    said += f" {facts['collapsed_below']:g}."
    if len(facts["tau"]) > 1:
        said += f" Lazy and collapsed go by tau {tau:g}."
    return said


def lines_of(measures: list[Measure], models: list[dict[str, Any]], labels: list[str]) -> list[Panel]:
    """A chart with all models for each measure that any of them has."""
    drawn = [(measure, draw_measure(measure, models, labels)) for measure in measures]
    return [Panel(measure.title, measure.about, picture) for measure, picture in drawn if picture]


def _missing(measures: list[Measure], models: list[dict[str, Any]], labels: list[str]) -> list[str]:
    pairs = zip(models, labels, strict=True)
    return [said for model, label in pairs for said in what_is_missing(measures, model, label)]


def ranks(facts: dict[str, Any], labels: list[str]) -> list[Panel]:
    """MaxRank and AvgMass over the blocks."""
    return lines_of(attention_measures(facts["tau"]), facts["models"], labels)


def attention_missing_of(models: list[dict[str, Any]], labels: list[str]) -> list[str]:
    """What is not drawn of the models' attention, in sentences."""
    return [said for model, label in zip(models, labels, strict=True) for said in attention_missing(model, label)]


def _by_head(facts: dict[str, Any], labels: list[str]) -> Section:
    rows = [
        [
            Panel(_of(measure.title, label, labels), measure.about, picture)
            for number, label in enumerate(labels)
            if (picture := draw_heads(measure, facts, number, label))
        ]
        for measure in HEAD_MEASURES
    ]
    about = "A column for each block, a row for each head; an empty place has no such head or no attention weights."
    if len(facts["tau"]) > 1:
        about += f" Rank at tau {facts['tau'][0]:g}; analysis.json has the others."
    return Section("Attention by head", about, rows=_together(rows))


def _of(title: str, label: str, labels: list[str]) -> str:
    return f"{title}: {label}" if len(labels) > 1 else title


def _together(rows: list[list[Panel]]) -> list[list[Panel]]:
    """Rows of a single figure as one row."""
    return rows if any(len(row) > 1 for row in rows) else [[panel for row in rows for panel in row]]


def _worth(models: list[dict[str, Any]], labels: list[str]) -> Section:
    lines, missing = lines_of(BLOCK_MEASURES, models, labels), _missing(BLOCK_MEASURES, models, labels)
    about = "Between the hidden states before and after a run of blocks. A dot marks the run that turns them least."
    maps = []
    for number, label in enumerate(labels):
        picture = draw_distances(models, number, label)
        if picture:
            maps.append(Panel(_of("Angular distance", label, labels), about, picture))
        else:
            missing.append(f"{label}: Angular distance was not measured.")
    rows = [lines, maps] if len(maps) > 1 else [lines + maps]
    return Section("What a block is worth", missing=missing, rows=rows)


def _gradients(models: list[dict[str, Any]], labels: list[str]) -> Section:
    about = "The theory expects that little gradient reaches the queries and keys of heads that have collapsed."
    lines, missing = lines_of([GRADIENTS], models, labels), _missing([GRADIENTS], models, labels)
    return Section("Gradients", about if lines else "", missing, [lines])


def _attention(folder: Path, models: list[dict[str, Any]], labels: list[str]) -> Section:
    rows, missing, step = [], [], 1
    for number, (model, label) in enumerate(zip(models, labels, strict=True)):
        if model["maps"] is None:
            missing.append(f"{label}: no attention matrix was kept.")
            continue
        matrices, row = _load(folder / model["maps"]["file"]), []
        for kind in ("potent", "lazy"):
            found = model["maps"][kind]
            lazy = found["block"] in (model["lazy_layers"] or [])
            title = "Lazy layer" if lazy else "Potent layer" if kind == "potent" else "The layer nearest to lazy"
            where = f"block {found['block']}, head {found['head']}, rank {found['rank']:.4g}"
            picture = draw_attention(matrices[kind], f"attention-{number}-{kind}", f"{title} of {label}: {where}")
            row.append(Panel(_of(title, label, labels), where, picture))
            step = max(step, reduction(len(matrices[kind])))
        rows.append(row)
    about = "Attention weights of the first sequence, on a square-root scale." if rows else ""
    if step > 1:
        about += f" A pixel shows the largest of {step} x {step} weights."
    return Section("A potent and a lazy layer", about, missing, rows)


def _load(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {kind: file[kind] for kind in ("potent", "lazy")}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # what numpy advises for a pickle would run whatever the file says
        what = "it holds pickled objects" if "pickle" in str(error) else str(error)
        raise DamagedFile(str(path), f"damaged: {what}", _REMEDY) from None


def _selections(models: list[dict[str, Any]], labels: list[str]) -> Section:
    tables = [
        (label if len(labels) > 1 else "", *dropped_table(model))
        for model, label in zip(models, labels, strict=True)
        if model["selection"] and model["selection"]["dropped"]
    ]
    return Section("Selection", "Blocks in the order in which they were dropped.", tables=tables)


def _layers(facts: dict[str, Any], labels: list[str]) -> Section:
    tables = [
        (label if len(labels) > 1 else "", *layers_table(model, facts["tau"]))
        for model, label in zip(facts["models"], labels, strict=True)
    ]
    about = "Sink and entropy are means over the layer's heads. A dash: not measured. analysis.json has every head."
    return Section("Layer by layer", about, tables=tables)
