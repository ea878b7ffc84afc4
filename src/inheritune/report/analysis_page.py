"""The analysis as one HTML page that needs nothing else, and the same in Markdown with its figures beside it."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inheritune.errors import InputError, RunError
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
from inheritune.report.figures import COLOURS, Picture
from inheritune.report.markup import fill_template, markdown_table, markdown_text
from inheritune.runlog import named, read_json, write_text

_FORMAT = 1


@dataclass(frozen=True)
class _Panel:
    """A figure with its heading and the sentence that explains it."""

    title: str
    about: str
    picture: Picture


@dataclass(frozen=True)
class _Section:
    title: str
    about: str = ""
    rows: list[list[_Panel]] = field(default_factory=list)
    """Figures that stand side by side where there is room."""
    missing: list[str] = field(default_factory=list)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    """(heading, header, rows)."""

    @property
    def panels(self) -> list[_Panel]:
        return [panel for row in self.rows for panel in row]


def write_analysis(folder: Path) -> Path:
    """Write `folder`/index.html, analysis.md and figures/ from analysis.json and the maps beside it.

    Returns the page's path. Raises InputError where there is no such file or it is of another format, RunError where a
    file is damaged.
    """
    facts = _read(folder / "analysis.json")
    models = facts["models"]
    labels = _labels(models)
    sections = [
        _by_layer(facts, labels),
        _by_head(facts, labels),
        _worth(models, labels),
        _gradients(models, labels),
        _attention(folder, models, labels),
        _selections(models, labels),
        _layers(facts, labels),
    ]
    page = {
        "title": f"Which layers work: {', '.join(labels)}",
        "verdicts": [analysis_verdict(model, label) for model, label in zip(models, labels, strict=True)],
        "colours": [COLOURS[number % len(COLOURS)] for number in range(len(models))],
        "text": _text(facts),
        "models": models_table(models, labels),
        "sections": [section for section in sections if section.panels or section.missing or section.tables],
    }
    (folder / "figures").mkdir(exist_ok=True)  # what else a user keeps there stays
    for picture in (panel.picture for section in sections for panel in section.panels):
        path = folder / "figures" / f"{picture.name}.png"
        with named(path):
            path.write_bytes(picture.png)
    write_text(folder / "analysis.md", _markdown(page))
    write_text(folder / "index.html", fill_template("analysis.html", page))
    return folder / "index.html"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(str(path), "no such file", "`inheritune analyze MODEL --out FOLDER` writes it")
    facts: dict[str, Any] = read_json(path)
    if facts.get("format") != _FORMAT:
        given = facts.get("format")
        raise InputError(str(path), f"is of format {given}, not {_FORMAT}", "analyse the model again with this version")
    return facts


def _labels(models: list[dict[str, Any]]) -> list[str]:
    """Names that tell the models apart: the path where two have one name, numbered where that is the same too."""
    names = [model["name"] for model in models]
    labels = [m["path"] if names.count(m["name"]) > 1 else m["name"] for m in models]
    return [f"{label} ({number})" if labels.count(label) > 1 else label for number, label in enumerate(labels, 1)]


def _text(facts: dict[str, Any]) -> str:
    text, tau = facts["text"], facts["tau"][0]
    many = text["sequences"] > 1
    said = f"{text['sequences']} {'sequences' if many else 'sequence'} of {text['sequence_length']} tokens from"
    said += f" {text['source']}; losses on {text['loss_sequences']} of them, in nats a token."
    said += " ± is one standard error over sequences." if many else " One sequence has no standard error."
    said += f" A head's rank is the least number of singular directions that hold {tau:.4g} (tau) of its attention"
    said += " matrix's squared norm, averaged over sequences; a head has collapsed when its rank is below"
    said += f" {facts['collapsed_below']:g}."
    if len(facts["tau"]) > 1:
        said += f" Lazy and collapsed go by tau {tau:g}."
    return said


def _lines(measures: list[Measure], models: list[dict[str, Any]], labels: list[str]) -> list[_Panel]:
    drawn = [(measure, draw_measure(measure, models, labels)) for measure in measures]
    return [_Panel(measure.title, measure.about, picture) for measure, picture in drawn if picture]


def _missing(measures: list[Measure], models: list[dict[str, Any]], labels: list[str]) -> list[str]:
    pairs = zip(models, labels, strict=True)
    return [said for model, label in pairs for said in what_is_missing(measures, model, label)]


def _by_layer(facts: dict[str, Any], labels: list[str]) -> _Section:
    models, measures = facts["models"], attention_measures(facts["tau"])
    missing = [said for model, label in zip(models, labels, strict=True) for said in attention_missing(model, label)]
    return _Section("Attention by layer", "", [_lines(measures, models, labels)], missing)


def _by_head(facts: dict[str, Any], labels: list[str]) -> _Section:
    rows = [
        [
            _Panel(_of(measure.title, label, labels), measure.about, picture)
            for number, label in enumerate(labels)
            if (picture := draw_heads(measure, facts, number, label))
        ]
        for measure in HEAD_MEASURES
    ]
    about = "A column for each block, a row for each head; an empty place has no such head or no attention weights."
    if len(facts["tau"]) > 1:
        about += f" Rank at tau {facts['tau'][0]:g}; analysis.json has the others."
    return _Section("Attention by head", about, _together(rows))


def _of(title: str, label: str, labels: list[str]) -> str:
    return f"{title}: {label}" if len(labels) > 1 else title


def _together(rows: list[list[_Panel]]) -> list[list[_Panel]]:
    """Rows of a single figure as one row."""
    return rows if any(len(row) > 1 for row in rows) else [[panel for row in rows for panel in row]]


def _worth(models: list[dict[str, Any]], labels: list[str]) -> _Section:
    lines, missing = _lines(BLOCK_MEASURES, models, labels), _missing(BLOCK_MEASURES, models, labels)
    about = "Between the hidden states before and after a run of blocks. A dot marks the run that turns them least."
    maps = []
    for number, label in enumerate(labels):
        picture = draw_distances(models, number, label)
        if picture:
            maps.append(_Panel(_of("Angular distance", label, labels), about, picture))
        else:
            missing.append(f"{label}: Angular distance was not measured.")
    return _Section("What a block is worth", "", [lines, maps] if len(maps) > 1 else [lines + maps], missing)


def _gradients(models: list[dict[str, Any]], labels: list[str]) -> _Section:
    about = "The theory expects that little gradient reaches the queries and keys of heads that have collapsed."
    lines, missing = _lines([GRADIENTS], models, labels), _missing([GRADIENTS], models, labels)
    return _Section("Gradients", about if lines else "", [lines], missing)


def _attention(folder: Path, models: list[dict[str, Any]], labels: list[str]) -> _Section:
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
            row.append(_Panel(_of(title, label, labels), where, picture))
            step = max(step, reduction(len(matrices[kind])))
        rows.append(row)
    about = "Attention weights of the first sequence, on a square-root scale." if rows else ""
    if step > 1:
        about += f" A pixel shows the largest of {step} x {step} weights."
    return _Section("A potent and a lazy layer", about, rows, missing)


def _load(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {kind: file[kind] for kind in ("potent", "lazy")}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(str(path), f"damaged: {error}", "analyse the model again") from None


def _selections(models: list[dict[str, Any]], labels: list[str]) -> _Section:
    tables = [
        (label if len(labels) > 1 else "", *dropped_table(model))
        for model, label in zip(models, labels, strict=True)
        if model["selection"] and model["selection"]["dropped"]
    ]
    return _Section("Selection", "Blocks in the order in which they were dropped.", tables=tables)


def _layers(facts: dict[str, Any], labels: list[str]) -> _Section:
    tables = [
        (label if len(labels) > 1 else "", *layers_table(model, facts["tau"]))
        for model, label in zip(facts["models"], labels, strict=True)
    ]
    about = "Sink and entropy are means over the layer's heads. A dash: not measured. analysis.json has every head."
    return _Section("Layer by layer", about, tables=tables)


def _markdown(page: dict[str, Any]) -> str:
    def paragraphs(texts: list[str]) -> list[str]:
        return [part for text in texts if text for part in (markdown_text(text), "")]

    def table(header: list[str], rows: list[list[str]]) -> list[str]:
        cells = [[markdown_text(cell) for cell in row] for row in rows]
        return [*markdown_table([markdown_text(cell) for cell in header], cells), ""]

    lines = [f"# {markdown_text(page['title'])}", "", *paragraphs(page["verdicts"]), *table(*page["models"])]
    lines += paragraphs([page["text"]])
    for section in page["sections"]:
        lines += [f"## {section.title}", "", *paragraphs([section.about, *section.missing])]
        for panel in section.panels:
            lines += [f"### {markdown_text(panel.title)}", "", *paragraphs([panel.about])]
            lines += [f"![{markdown_text(panel.title)}](figures/{panel.picture.name}.png)", ""]
        for heading, header, rows in section.tables:
            lines += ([f"### {markdown_text(heading)}", ""] if heading else []) + table(header, rows)
    return "\n".join(lines)
