"""What commands print for people, as tables on standard output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from inheritune import report as reports
from inheritune import results
from inheritune.cli.options import echo
from inheritune.runlog import PlainConsole, duration


def table_of(
    header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1, whole: slice = slice(0)
) -> Table:  # fmt: skip
    """The first `names` columns are at the left, the others at the right. Cells are not broken in those of `whole`."""
    shown = Table(box=None, pad_edge=False, header_style="bold", show_header=any(header))
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number < names else "right", overflow="fold")
    for column in shown.columns[whole]:
        column.no_wrap = True
    for row in rows:
        shown.add_row(*row)
    return shown


def show_summary(summary: "results.RunSummary", folder: Path) -> None:
    """The table and the verdict of a run."""
    console = PlainConsole()
    console.print()
    console.print(table_of(*reports.table(summary, narrow=True)))
    console.print()
    console.print(reports.verdict(summary))
    console.print(f"\nmodel   {folder / summary.result.model}", soft_wrap=True)
    console.print(f"report  {folder / 'report' / 'index.html'}", soft_wrap=True)


def show_plan(plan: dict[str, Any]) -> None:
    """A plan: its figures, then a row for each tensor of the target."""
    # A name that is broken over two lines can be neither read nor copied, so the terminal wraps long rows.
    console = PlainConsole(width=max(PlainConsole().width, 240))
    rows = [
        [row["target"], row["source"] or "-", row["slice"], f"{row['bytes']:,}" if row["bytes"] else ""]
        for row in plan["plan"]
    ]
    total = sum(row["bytes"] for row in plan["plan"])
    console.print(
        f"{len(plan['blocks'])} of {plan['of']} blocks ({', '.join(map(str, plan['blocks']))}),"
        f" {plan['parameters']:,} parameters, {total:,} bytes;"
        f" {len(plan['dropped'])} tensors of the reference are left behind",
        soft_wrap=True,
    )
    console.print(", ".join(f"{name} {value:,}" for name, value in plan["config"].items()), soft_wrap=True)
    if plan["is_provisional"]:
        console.print("Units, tokens and shape are chosen when the model is made; here first units and all tokens.")
    if "refit" in plan:
        changed = [f"{place} ({', '.join(names)})" for place, names in enumerate(plan["refit"]) if names]
        console.print(f"refitted in the target's blocks: {'; '.join(changed) or 'nothing'}", soft_wrap=True)
    console.print()
    console.print(table_of(("target tensor", "source tensor", "slice", "bytes"), rows, names=3, whole=slice(3)))


def show_inherited(made: dict[str, Any]) -> None:
    """What was inherited, in a line."""
    if "shape" in made:
        choice, console = results.ShapeChoice.model_validate(made["shape"]), PlainConsole()
        # a row that is broken over two lines can be neither read nor copied
        wide = PlainConsole(width=max(console.width, 160))
        wide.print(table_of(*reports.shape_table(choice), names=0))
        for note in reports.shape_notes(choice):
            console.print(note, soft_wrap=True)
    new = f", {made['tensors_fresh']} tensors new" if made["tensors_fresh"] else ""
    echo(f"{made['model']}: {len(made['blocks'])} of {made['of']} blocks, {made['parameters']:,} parameters{new}")


def show_bench(bench: dict[str, Any]) -> None:
    """Figures with their units."""
    step, limit, memory, console = bench["step"], bench["limit"], bench["memory"], PlainConsole()
    rows = [
        ["step", f"{step['seconds']:.4g} s", f"median of {step['measured']}"],
        ["", f"{step['tokens_per_second']:,.0f}", "tokens/s"],
        ["", f"{bench['flops_per_token'] / 1e6:,.1f}", "MFLOP a token"],
        ["", _giga(step["flops_per_second"]), "GFLOP/s"],
        ["limit", _giga(limit["flops_per_second"]), f"GFLOP/s, {limit['matrix']}³ {limit['dtype']} product"],
        ["", f"{_giga(limit['lowest'])} to {_giga(limit['highest'])}", f"GFLOP/s, of {limit['measured']}"],
        ["fraction", f"{bench['fraction']:.3f}", "of the limit"],
    ]
    if limit["data_sheet"] is not None:
        rows.append(["", f"{bench['fraction_of_data_sheet']:.3f}", f"of the data sheet's {_giga(limit['data_sheet'])}"])
    for label, row in (("end to end", bench["end_to_end"]), ("end to end, direct", bench["end_to_end_direct"])):
        if row is not None:
            rows.append([label, f"{row['tokens_per_second']:,.0f}", f"tokens/s, {row['lost']:.1%} lost"])
    rows += [
        *_lost_beside_steps(bench["end_to_end"]),
        ["memory", f"{memory['peak_bytes'] / 2**30:.2f} GiB", f"peak {memory['of']}"],
        ["first step", f"{bench['first_step_seconds']:.1f} s", "compiling included, not counted above"],
    ]
    console.print(
        f"{bench['shape']}: {bench['blocks']} blocks, {bench['parameters']:,} parameters; {bench['batch_sequences']} x"
        f" {bench['sequence_length']} tokens a step, {bench['precision']}, compile {str(bench['compile']).lower()};"
        f" {bench['hardware']['name']}",
        soft_wrap=True,
    )
    shown = table_of(("", "", ""), rows)
    shown.columns[2].justify = "left"
    console.print(shown)


def _lost_beside_steps(parts: dict[str, Any] | None) -> list[list[str]]:
    if parts is None:
        return [["end to end", "-", "not measured: time ran out"]]
    judged = f"s, validation of {parts['validation_sequences']} sequences, each {parts['validation_every_steps']} steps"
    return [
        ["", f"{parts['validation_seconds']:.3g}", judged],
        ["", f"{parts['best_seconds']:.3g}", "s, keeping the best weights, as often"],
        ["", f"{parts['checkpoint_seconds']:.3g}", f"s, a checkpoint, each {parts['checkpoint_every']}"],
        ["", f"{parts['between_steps_seconds']:.3g}", "s between steps (data, records)"],
    ]


def _giga(rate: float) -> str:
    return f"{rate / 1e9:,.0f}"


def show_prepared(manifest: dict[str, Any]) -> None:
    """The documents and tokens of each source, and those that each filter kept."""
    console = PlainConsole()
    if manifest.get("sources"):
        names = ("source", "documents found", "broken places", "training tokens", "validation tokens")
        rows = [
            [
                source["name"], f"{source['documents_found']:,}", f"{sum(source['passed_over'].values()):,}",
                f"{source['train_tokens']:,}", f"{source['validation_tokens']:,}",
            ]
            for source in manifest["sources"]
        ]  # fmt: skip
        console.print(table_of(names, rows))
        console.print()
    if manifest.get("filters"):
        counts = ("documents_in", "documents_out", "tokens_in", "tokens_out")
        rows = [[step["filter"], *(f"{step[key]:,}" for key in counts)] for step in manifest["filters"]]
        console.print(table_of(("filter", "documents in", "out", "tokens in", "out"), rows))
        console.print()


def show_analysis(analysis: "results.Analysis", out: Path | None) -> None:
    """A row for each block of each model, and a summary of each."""
    console = PlainConsole()
    header = ["block", "max rank", "mass", "sink", "influence", "skipped", "depth loss", "grad q", "grad k", ""]
    for model in analysis.models:
        shown = table_of(header, [_analysis_row(block, f"{analysis.tau[0]:g}") for block in model.blocks])
        shown.columns[0].justify, shown.columns[-1].justify = "right", "left"
        console.print(f"\n{model.name}: loss {model.loss.mean:.4f}")
        console.print(shown)
        console.print(_analysis_summary(model, analysis.collapsed_below), soft_wrap=True)
    if out is not None:
        console.print(f"\npage    {out / 'index.html'}", soft_wrap=True)
        console.print(f"figures {out / 'analysis.json'}", soft_wrap=True)


def _analysis_row(block: "results.Block", tau: str) -> list[str]:
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


def _analysis_summary(model: "results.AnalyzedModel", collapsed_below: float) -> str:
    if model.no_attention is not None:
        text = f"No ranks: {model.no_attention}."
    else:
        lazy = reports.spans(model.lazy_layers) if model.lazy_layers else "none"
        text = (
            f"{model.collapsed_share:.0%} of the heads collapsed (rank below {collapsed_below:g}); lazy layers: {lazy}"
        )
    if model.selection is not None:
        chosen = model.selection
        layers = ",".join(reports.spans(chosen.blocks).split(", "))
        text += f"\n{chosen.choose}: keep {len(chosen.blocks)} blocks, --layers {layers}\n{chosen.reason}"
    return text


def show_trial(trial: dict[str, Any]) -> None:
    """What a dry run has measured."""
    layers = f"{trial['layers']} blocks (the deepest round): " if "layers" in trial else ""
    memory = trial["memory"]
    echo(
        f"{layers}a step of {trial['batch_tokens']:,} tokens takes {trial['seconds']:.2f} s,"
        f" {trial['tokens_per_second']:,.0f} tokens/s, not compiled"
    )
    echo(f"peak memory {memory['peak_bytes'] / 1e9:.2f} GB ({memory['of']})")
    if "hours" in trial:
        least, most = (duration(3600 * trial["hours"][key]) for key in ("least", "most"))
        whole = least if least == most else f"{least} if the first round matches, {most} if all rounds are needed"
        echo(f"all trainings and validations of the run at this rate: {whole}")
    if trial["rounded_down"] is not None:
        echo(trial["rounded_down"])
