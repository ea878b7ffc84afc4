"""What commands print for people, as tables."""

from pathlib import Path
from typing import Any


def show_summary(summary: dict[str, Any], folder: Path) -> None:
    """The table and the verdict, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from inheritune.report import table, verdict

    header, rows = table(summary, narrow=True)
    console = Console(highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print()
    console.print(shown)
    console.print()
    console.print(verdict(summary), markup=False)
    console.print(f"\nmodel   {folder / summary['result']['model']}", markup=False, soft_wrap=True)
    console.print(f"report  {folder / 'report' / 'index.html'}", markup=False, soft_wrap=True)


def show_plan(found: dict[str, Any]) -> None:
    """A plan, a row for each tensor of the target, on standard output."""
    from rich.console import Console
    from rich.table import Table

    # A name that is broken over two lines can be neither read nor copied: long rows are left to the terminal.
    console = Console(highlight=False, width=max(Console().width, 240))
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("target tensor", "source tensor", "slice"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("bytes", justify="right")
    for row in found["plan"]:
        shown.add_row(row["target"], row["source"] or "-", row["slice"], f"{row['bytes']:,}" if row["bytes"] else "")
    console.print(shown)
    total = sum(row["bytes"] for row in found["plan"])
    console.print(
        f"\n{len(found['blocks'])} of {found['of']} blocks ({', '.join(map(str, found['blocks']))}),"
        f" {found['parameters']:,} parameters, {total:,} bytes;"
        f" {len(found['dropped'])} tensors of the reference are left behind",
        soft_wrap=True,
    )


def show_inherited(found: dict[str, Any]) -> None:
    """What was inherited, in a line on standard output."""
    new = f", {found['tensors_fresh']} tensors new" if found["tensors_fresh"] else ""
    print(f"{found['model']}: {len(found['blocks'])} of {found['of']} blocks, {found['parameters']:,} parameters{new}")
