"""report/: the run as one HTML page that needs nothing else, and the same in Markdown."""

from pathlib import Path
from typing import Any

import yaml

from inheritune.report.curves import collect_curves, draw, reference_level
from inheritune.report.verdict import table, verdict
from inheritune.runlog import new_folder


def write_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `folder`/report from summary, metrics and recipe; returns the page's path."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    recipe_text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(recipe_text)
    shown = min(recipe["evaluate"]["sequences"], summary["validation_sequences"])
    svg, png = draw(collect_curves(folder, summary), reference_level(folder, shown), "tokens", "tokens trained on")
    header, rows = table(summary)
    best = next(found for found in summary["rounds"] if found["model"] == summary["result"]["model"])
    facts = {
        "title": f"Inheritune: {summary['reference']['name']}",
        "summary": summary,
        "verdict": verdict(summary),
        "header": header,
        "rows": rows,
        "svg": svg,
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
        (partial / "index.html").write_text(environment.get_template("page.html").render(facts), encoding="utf-8")
        (partial / "loss.png").write_bytes(png)
        (partial / "report.md").write_text(_markdown(facts), encoding="utf-8")
    return place / "index.html"


def _markdown(facts: dict[str, Any]) -> str:
    lines = [f"# {facts['title']}", "", facts["verdict"], "", "| " + " | ".join(facts["header"]) + " |"]
    lines.append("|" + " --- |" * len(facts["header"]))
    lines += ["| " + " | ".join(row) + " |" for row in facts["rows"]]
    lines += ["", "![validation loss during training](loss.png)", ""]
    lines.append(f"Kept blocks {facts['blocks']}. Took {facts['wall']}, at most {facts['memory']} of memory.")
    lines += ["", f"The model: `{facts['model']}`", ""]
    return "\n".join(lines)


def spans(blocks: list[int]) -> str:
    """`0-11, 27-29` for the list of those numbers."""
    found: list[list[int]] = []
    for block in blocks:
        if found and block == found[-1][1] + 1:
            found[-1][1] = block
        else:
            found.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def duration(seconds: float) -> str:
    """`2 h 5 min`, `7 min 20 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
