"""report/: the run as one HTML page that needs nothing else, and the same in Markdown."""

from pathlib import Path
from typing import Any

import yaml

from inheritune.report.curves import collect_curves, draw_curves, reference_level
from inheritune.report.markup import fill_template, markdown_table
from inheritune.report.notation import duration, spans
from inheritune.report.verdict import table, verdict
from inheritune.runlog import new_folder


def write_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `folder`/report from summary, metrics and recipe; returns the page's path."""
    recipe_text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(recipe_text)
    shown = min(recipe["evaluate"]["sequences"], summary["validation_sequences"])
    picture = draw_curves(collect_curves(folder, summary), reference_level(folder, shown))
    header, rows = table(summary)
    best = next(found for found in summary["rounds"] if found["model"] == summary["result"]["model"])
    facts = {
        "title": f"Inheritune: {summary['reference']['name']}",
        "summary": summary,
        "verdict": verdict(summary),
        "header": header,
        "rows": rows,
        "svg": picture.svg,
        "every": recipe["evaluate"]["every"],
        "shown_sequences": shown,
        "model": str(folder / summary["result"]["model"]),
        "blocks": spans(best["blocks"]),
        "wall": duration(summary["wall_seconds"]),
        "memory": f"{summary['peak_memory_bytes'] / 1e9:.1f} GB",
        "recipe": recipe_text,
    }
    place = folder / "report"
    with new_folder(place) as partial:
        (partial / "index.html").write_text(fill_template("page.html", facts), encoding="utf-8")
        (partial / "loss.png").write_bytes(picture.png)
        (partial / "report.md").write_text(_markdown(facts), encoding="utf-8")
    return place / "index.html"


def _markdown(facts: dict[str, Any]) -> str:
    lines = [f"# {facts['title']}", "", facts["verdict"], "", *markdown_table(facts["header"], facts["rows"])]
    lines += ["", "![validation loss during training](loss.png)", ""]
    lines.append(f"Kept blocks {facts['blocks']}. Took {facts['wall']}, at most {facts['memory']} of memory.")
    lines += ["", f"The model: `{facts['model']}`", ""]
    return "\n".join(lines)
