"""What a block is worth: influence, losses without it and at its depth, angular distances."""

from inheritune.report.analysis import AnalysisFolder, what_is_missing
from inheritune.report.heat_maps import draw_distances
from inheritune.report.line_charts import measure_panels
from inheritune.report.measures import BLOCK_MEASURES
from inheritune.report.page import Panel, Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.sections.attention_by_head import title_of
from inheritune.report.shown import Shown

PLACE = 50


def section(shown: Shown) -> Section:
    """All models overlaid; of an analysis that is shown alone also a map of distances for each model."""
    title, models = "What a block is worth", shown.models
    if shown.only(RunFolder) is not None:
        return Section(title)
    lines = measure_panels(BLOCK_MEASURES, models)
    if shown.only(AnalysisFolder) is None:
        return Section(title, rows=[lines])
    missing = what_is_missing(BLOCK_MEASURES, models)
    about = "Between the hidden states before and after a run of blocks. A dot marks the run that turns them least."
    maps = []
    for number, model in enumerate(models):
        picture = draw_distances(models, number)
        if picture:
            maps.append(Panel(title_of("Angular distance", number, models), about, picture))
        else:
            missing.append(f"{model.name}: Angular distance was not measured.")
    return Section(title, missing=missing, rows=[lines, maps] if len(maps) > 1 else [lines + maps])
