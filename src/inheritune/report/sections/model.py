"""How to load a run's result."""

from pathlib import Path

from inheritune.report.notation import many, short, spans
from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 95


def section(shown: Shown) -> Section:
    """Return how to load the result, if the page shows one run only."""
    run, title = shown.only(RunFolder), "The model"
    if run is None or run.best is None:
        return Section(title)
    folder = Path(run.folder.name) if run.folder.is_absolute() else run.folder  # readers of a page need no home folder
    model = str(folder / run.best.model)
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({model!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({model!r})"
    )
    about = f"{many(run.best.layers, 'block')}, {short(run.best.parameters)} parameters."
    return Section(title, f"{about} It began with the reference's blocks {spans(run.best.blocks)}.", code=[("", code)])
