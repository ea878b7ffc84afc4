"""What commands print for people, as tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inheritune.cli.options import echo
from inheritune.runtime import place_of_process

if TYPE_CHECKING:
    from rich.table import Table

    from inheritune.results import Analysis, AnalyzedModel, Block, RunSummary


def table_of(
    header: Sequence[str], rows: Sequence[Sequence[str]], whole_figures: bool = False, names: int = 1
) -> "Table":  # fmt: skip
    """The first `names` columns to the left, the others to the right. With `whole_figures` only names are broken where
    there is no room.
    """
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        is_name = number < names
        justify: Literal["left", "right"] = "left" if is_name else "right"
        shown.add_column(name, justify=justify, overflow="fold", no_wrap=whole_figures and not is_name)
    for row in rows:
        shown.add_row(*row)
    return shown


def show_summary(summary: "RunSummary", folder: Path) -> None:
    """The table and the verdict, on standard output."""
    from inheritune.report import table, verdict
    from inheritune.runlog import PlainConsole

    console = PlainConsole()
    console.print()
    console.print(table_of(*table(summary, narrow=True)))
    console.print()
    console.print(verdict(summary))
    console.print(f"\nmodel   {folder / summary.result.model}", soft_wrap=True)
    console.print(f"report  {folder / 'report' / 'index.html'}", soft_wrap=True)


def show_plan(found: dict[str, Any]) -> None:
    """A plan, a row for each tensor of the target, on standard output."""
    from inheritune.runlog import PlainConsole

    # A name that is broken over two lines can be neither read nor copied: long rows are left to the terminal.
    console = PlainConsole(width=max(PlainConsole().width, 240))
    rows = [
        [row["target"], row["source"] or "-", row["slice"], f"{row['bytes']:,}" if row["bytes"] else ""]
        for row in found["plan"]
    ]
    shown = table_of(("target tensor", "source tensor", "slice", "bytes"), rows, names=3)
    for column in shown.columns[:3]:
        column.no_wrap = True
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
    echo(f"{found['model']}: {len(found['blocks'])} of {found['of']} blocks, {found['parameters']:,} parameters{new}")


def show_bench(found: dict[str, Any]) -> None:
    """Figures with their units, on standard output."""
    from rich.table import Table

    from inheritune.runlog import PlainConsole

    console, step, limit = PlainConsole(), found["step"], found["limit"]
    shown = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "right", "left"):
        shown.add_column(justify=justify, overflow="fold")
    shown.add_row("step", f"{step['seconds']:.4g} s", f"median of {step['measured']}")
    shown.add_row("", f"{step['tokens_per_second']:,.0f}", "tokens/s")
    shown.add_row("", f"{found['flops_per_token'] / 1e6:,.1f}", "MFLOP a token")
    shown.add_row("", _giga(step["flops_per_second"]), "GFLOP/s")
    shown.add_row("limit", _giga(limit["flops_per_second"]), f"GFLOP/s, {limit['matrix']}³ {limit['dtype']} product")
    shown.add_row("", f"{_giga(limit['lowest'])} to {_giga(limit['highest'])}", f"GFLOP/s, of {limit['measured']}")
    shown.add_row("fraction", f"{found['fraction']:.3f}", "of the limit")
    if limit["data_sheet"] is not None:
        shown.add_row("", f"{found['fraction_of_data_sheet']:.3f}", f"of the data sheet's {_giga(limit['data_sheet'])}")
    for label, row in (("end to end", found["end_to_end"]), ("end to end, direct", found["end_to_end_direct"])):
        if row is not None:
            shown.add_row(label, f"{row['tokens_per_second']:,.0f}", f"tokens/s, {row['lost']:.1%} lost")
    _add_parts(shown, found["end_to_end"])
    shown.add_row("memory", f"{found['memory']['peak_bytes'] / 2**30:.2f} GiB", f"peak {found['memory']['of']}")
    shown.add_row("first step", f"{found['first_step_seconds']:.1f} s", "compiling included, not counted above")
    console.print(
        f"{found['shape']}: {found['blocks']} blocks, {found['parameters']:,} parameters; {found['batch_sequences']} x"
        f" {found['sequence_length']} tokens a step, {found['precision']}, compile {str(found['compile']).lower()};"
        f" {found['hardware']['name']}",
        soft_wrap=True,
    )  # fmt: skip
    console.print(shown)


def _add_parts(shown: Any, parts: dict[str, Any] | None) -> None:
    """What costs time beside the steps: rows of a table."""
    if parts is None:
        shown.add_row("end to end", "-", "not measured: time ran out")
        return
    judged = f"s, validation of {parts['validation_sequences']} sequences, each {parts['validation_every_steps']} steps"
    shown.add_row("", f"{parts['validation_seconds']:.3g}", judged)
    shown.add_row("", f"{parts['best_seconds']:.3g}", "s, keeping the best weights, as often")
    shown.add_row("", f"{parts['checkpoint_seconds']:.3g}", f"s, a checkpoint, each {parts['checkpoint_every']}")
    shown.add_row("", f"{parts['between_steps_seconds']:.3g}", "s between steps (data, records)")


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.0f}"


def show_prepared(found: dict[str, Any]) -> None:
    """What came from each source, and what each filter left, on standard output."""
    from inheritune.runlog import PlainConsole

    console = PlainConsole()
    if found.get("sources"):
        names = ("source", "documents found", "broken places", "training tokens", "validation tokens")
        rows = [
            [
                source["name"], f"{source['documents_found']:,}", f"{sum(source['passed_over'].values()):,}",
                f"{source['train_tokens']:,}", f"{source['validation_tokens']:,}",
            ]
            for source in found["sources"]
        ]  # fmt: skip
        console.print(table_of(names, rows))
        console.print()
    if found.get("filters"):
        counts = ("documents_in", "documents_out", "tokens_in", "tokens_out")
        rows = [[step["filter"], *(f"{step[key]:,}" for key in counts)] for step in found["filters"]]
        console.print(table_of(("filter", "documents in", "out", "tokens in", "out"), rows))
        console.print()


def show_analysis(analysis: "Analysis", out: Path | None) -> None:
    """A row for each block of each model, and a summary of each, on standard output."""
    from inheritune.runlog import PlainConsole

    console = PlainConsole()
    header = ["block", "max rank", "mass", "sink", "influence", "skipped", "depth loss", "grad q", "grad k", ""]
    for model in analysis.models:
        shown = table_of(header, [_analysis_row(block, f"{analysis.tau[0]:g}") for block in model.blocks])
        shown.columns[0].justify, shown.columns[-1].justify = "right", "left"
        console.print(f"\n{model.name}: loss {model.loss.mean:.4f}")
        console.print(shown)
        console.print(_analysis_words(model, analysis.collapsed_below), soft_wrap=True)
    if out is not None:
        console.print(f"\npage    {out / 'index.html'}", soft_wrap=True)
        console.print(f"figures {out / 'analysis.json'}", soft_wrap=True)


def _analysis_row(block: "Block", tau: str) -> list[str]:
    attention, gradients = block.attention, block.gradients
    sinks = [head.sink.mean for head in attention.heads] if attention else []
    figures = [
        (attention and attention.max_rank[tau].mean, ".2f"),
        (attention and attention.avg_mass.mean, ".1f"),
        (sum(sinks) / len(sinks) if sinks else None, ".2f"),
        (block.influence and block.influence.mean, ".3f"),
        (block.skipped and block.skipped.mean, "+.3f"),
        (block.depth_loss and block.depth_loss.mean, ".2f"),
        (gradients and gradients.query, ".2g"),
        (gradients and gradients.key, ".2g"),
    ]
    shown = ["-" if value is None else format(value, form) for value, form in figures]
    return [str(block.block), *shown, "lazy" if attention and attention.lazy else ""]


def _analysis_words(model: "AnalyzedModel", collapsed_below: float) -> str:
    from inheritune.report import spans

    if model.no_attention is not None:
        text = f"No ranks: {model.no_attention}."
    else:
        lazy = spans(model.lazy_layers) if model.lazy_layers else "none"
        text = (
            f"{model.collapsed_share:.0%} of the heads collapsed (rank below {collapsed_below:g}); lazy layers: {lazy}"
        )
    if model.selection is not None:
        chosen = model.selection
        layers = ",".join(spans(chosen.blocks).split(", "))
        text += f"\n{chosen.choose}: keep {len(chosen.blocks)} blocks, --layers {layers}\n{chosen.reason}"
    return text


def show_trial(found: dict[str, Any], as_json: bool) -> None:
    """What a dry run has measured, on standard output of the first process."""
    if place_of_process()[0] > 0:
        return
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    layers = f"{found['layers']} blocks (the deepest round): " if "layers" in found else ""
    memory = found["memory"]
    echo(
        f"{layers}a step of {found['batch_tokens']:,} tokens takes {found['seconds']:.2f} s,"
        f" {found['tokens_per_second']:,.0f} tokens/s, not compiled"
    )
    echo(f"peak memory {memory['peak_bytes'] / 1e9:.2f} GB ({memory['of']})")
