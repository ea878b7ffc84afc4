"""MaxRank and AvgMass over the blocks."""

from inheritune.report.analysis import about_text, attention_missing, models_table
from inheritune.report.line_charts import measure_panels
from inheritune.report.measures import attention_measures
from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 40


def section(shown: Shown) -> Section:
    """All models overlaid, at the taus that all analyses have."""
    title = "Attention by layer"
    if not shown.analyses:
        return Section(title)
    models, analyses = shown.models, [analysis for _, analysis in shown.analyses]
    missing = attention_missing(models)
    taus = [tau for tau in analyses[0].tau if all(tau in one.tau for one in analyses)]
    if not taus:
        missing.append("Ranks were taken at different shares of the norm (tau), so they are not drawn together.")
    measures = attention_measures(taus) if taus else attention_measures([0.0])[1:]
    missing += _different_texts(shown) if len(shown.folders) > 1 else []
    tables = [("", models_table(models))] if len(shown.folders) > 1 else []
    run, notes = shown.only(RunFolder), []
    if run is not None and run.analysis is not None:
        more = "analysis/index.html in the run's folder shows every head, and what each block is worth."
        notes = [f"{about_text(run.analysis)} {more}"]
    return Section(title, missing=missing, rows=[measure_panels(measures, models)], tables=tables, notes=notes)


def _different_texts(shown: Shown) -> list[str]:
    """A sentence on the texts of analyses that saw different ones."""
    # the checksums show that one text in two folders is one text
    sources = {label: run.validation_text for label, run in shown.every(RunFolder)}
    texts = [(label, one.text, sources.get(label) or one.text.source) for label, one in shown.analyses]
    if len({(source, text.sequences, text.sequence_length) for _, text, source in texts}) == 1:
        return []
    each = "; ".join(f"{label}: {t.sequences} x {t.sequence_length} tokens from {source}" for label, t, source in texts)
    return [f"The analyses saw different texts, so that part of a difference is the text's: {each}."]
