"""The shapes that were tried for a size or a speed, as people read them."""

from inheritune.report.notation import short
from inheritune.report.page import Table
from inheritune.results import MeasuredSpeed, ShapeCandidate, ShapeChoice

COLUMNS = (
    "blocks", "heads", "MLP", "channels", "parameters", "generation", "training", "loss", "trained a little", "",
)  # fmt: skip


def shape_table(choice: ShapeChoice) -> Table:
    """A row for the reference and for each shape. A * marks those that no other one beats in everything."""
    rows = [_row(one, "chosen" if at == choice.chosen else "") for at, one in enumerate(choice.candidates)]
    for at in choice.frontier:
        rows[at][""] = f"* {rows[at]['']}".strip()
    first = [] if choice.reference is None else [_row(choice.reference, "reference")]
    return Table.of(COLUMNS, [*first, *rows])


def shape_notes(choice: ShapeChoice) -> list[str]:
    """What the columns are, in sentences."""
    notes = [f"Asked for: {choice.goal}. {len(choice.candidates)} shapes tried."]
    if choice.measured_on is not None:
        notes.append(
            "Speeds are tokens a second and how many times the reference's (median of turns, lowest to highest), with"
            f" random weights on {choice.measured_on}."
        )
    if choice.tokens:
        notes.append(
            f"Units are chosen and blocks refitted on {choice.tokens:,} tokens; losses are on {choice.held_out:,}"
            " others, in nats a token. * marks shapes that no other one beats in parameters, speeds and loss at once."
        )
    return notes


def shape_lines(choice: ShapeChoice) -> list[str]:
    """The table as aligned lines, with its notes."""
    table = shape_table(choice)
    cells = [table.header, *table.rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(table.header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, *shape_notes(choice)]


def _row(shape: ShapeCandidate, mark: str) -> dict[str, str]:
    widths = {"heads": shape.heads, "MLP": shape.mlp, "channels": shape.hidden}
    return {
        "blocks": str(shape.layers),
        **{name: "all" if count is None else f"{count:,}" for name, count in widths.items()},
        "parameters": short(shape.parameters), "generation": _speed(shape.generation),
        "training": _speed(shape.training), "loss": "" if shape.loss is None else f"{shape.loss:.3f}",
        "trained a little": "" if shape.recovered is None else f"{shape.recovered:.3f}", "": mark,
    }  # fmt: skip


def _speed(speed: MeasuredSpeed | None) -> str:
    if speed is None:
        return ""
    return f"{short(speed.rate)} ({speed.times:.2f}x, {speed.lowest:.2f}-{speed.highest:.2f})"
