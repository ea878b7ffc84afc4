"""Attention matrices of a potent and a lazy layer."""

import zipfile
from pathlib import Path

import numpy as np

from inheritune.errors import DamagedFile
from inheritune.report.analysis import AnalysisFolder
from inheritune.report.heat_maps import draw_attention, reduction
from inheritune.report.page import Panel, Section
from inheritune.report.sections.attention_by_head import title_of
from inheritune.report.shown import Shown
from inheritune.results import Analysis

PLACE = 60


def section(shown: Shown) -> Section:
    """Return two matrices of each model, if the page shows one analysis only."""
    title = "A potent and a lazy layer"
    if (analysis := shown.only(AnalysisFolder)) is None:
        return Section(title)
    rows, missing, step = [], [], 1
    for number, model in enumerate(shown.models):
        if model.maps is None or model.maps.file is None:
            missing.append(f"{model.name}: no attention matrix was kept.")
            continue
        matrices, row = _load(analysis.folder / model.maps.file), []
        for kind, head in (("potent", model.maps.potent), ("lazy", model.maps.lazy)):
            lazy = head.block in (model.lazy_layers or [])
            name = "Lazy layer" if lazy else "Potent layer" if kind == "potent" else "The layer nearest to lazy"
            where = f"block {head.block}, head {head.head}, rank {head.rank:.4g}"
            picture = draw_attention(matrices[kind], f"attention-{number}-{kind}", f"{name} of {model.name}: {where}")
            row.append(Panel(title_of(name, number, shown.models), where, picture))
            step = max(step, reduction(len(matrices[kind])))
        rows.append(row)
    about = "Attention weights of the first sequence, on a square-root scale." if rows else ""
    if step > 1:
        about += f" A pixel shows the largest of {step} x {step} weights."
    return Section(title, about, missing, rows)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {kind: file[kind] for kind in ("potent", "lazy")}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # numpy's advice for a pickle would run code from the file
        what = "it holds pickled objects" if "pickle" in str(error) else str(error)
        raise DamagedFile(str(path), f"damaged: {what}", Analysis.REMEDY) from None
