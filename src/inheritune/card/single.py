"""Cards of what single commands write: a checkpoint that was only inherited, a model of one training."""

from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.arch import Readers, readers_in
from inheritune.card.origin import CARD, origin_of_model
from inheritune.card.run import blocks_rows, costs, machine, put
from inheritune.card.text import PAPER, Card, code, lineage_rows, render
from inheritune.recipe import Inherit, Reference, Training, model_at
from inheritune.report import markdown_text, short, spans, with_error
from inheritune.results import BlockChoice, Inherited, Start, TrainingResult
from inheritune.runlog import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTES = "inheritance.json"


def inherited_files(
    reference: "Reference | PreTrainedModel", spec: Inherit, notes: Inherited, parameters: int, readers: Readers,
    selection: BlockChoice | None = None,
) -> dict[str, str]:  # fmt: skip
    """README.md and the reference's licence, by name, for a checkpoint that is inherited and not trained.

    `notes` is the plan in figures, `readers` which versions of transformers load it, `selection` a measured choice.
    """
    origin = origin_of_model(reference)
    blocks, total = notes.blocks, notes.total
    chosen = "listed" if isinstance(spec.layers, list) else code(spec.choose)
    if selection is not None:
        chosen = f"{code(selection.choose)}, measured: {markdown_text(selection.reason)}"
    lead = (
        f"Blocks {spans(blocks)} of {markdown_text(origin.name)} ({total} blocks): {len(blocks)} blocks,"
        f" {short(parameters)} parameters, weights only, as the start of the method of {PAPER}.\n\n"
        "**It has not been trained since its blocks were removed.** A model that lacks some of its blocks predicts"
        " badly until it is trained (`inheritune train`), and no figure of this one was measured."
    )
    rows = [*lineage_rows(origin, total, None), *blocks_rows(blocks, total, chosen, spec, notes)]
    title = f"{len(blocks)} of {total} blocks of {origin.name.rpartition('/')[2]}, untrained"
    unknown = "Everything that a measurement would say: none was made."
    code_too = isinstance(reference, Reference) and reference.trust_remote_code
    card = Card(title, lead, origin, rows, readers, unknown=unknown, trained=False, own_code=code_too)
    return {**origin.files, CARD: render(card)}


def write_trained_card(
    folder: Path, model: "str | Path | PreTrainedModel", result: TrainingResult, settings: Training, start: Start,
    teacher: "str | Path | PreTrainedModel | None" = None,
) -> None:  # fmt: skip
    """Write README.md and the reference's licence into `folder`/model after a training of `model`.

    `start` is on what it was trained. A card that is there is left as it is.
    """
    if (folder / "model" / CARD).exists() or not (folder / "model").is_dir():
        return
    origin = origin_of_model(_place(model))
    rows = lineage_rows(origin, None, None)
    inherited = Inherited.read_if_there(Path(model) / _NOTES) if isinstance(model, str | Path) else None
    if inherited is not None:
        rows.append(("its blocks", f"{spans(inherited.blocks)} of {inherited.total}, inherited before"))
    loss = with_error(result.val_loss, result.val_loss_se)
    lead = (
        f"{markdown_text(origin.name)} trained on {short(result.tokens)} tokens: {result.layers} blocks,"
        f" {short(result.parameters)} parameters. Validation loss {loss} on {result.validation_sequences:,} sequences,"
        " none of them from our training text; ± is one standard error."
    )
    training = [*costs(result, settings), *machine(start.model_copy(update={"versions": versions()}))]
    if teacher is not None:
        training.insert(0, ("teacher", code(origin_of_model(_place(teacher)).name)))
    card = Card(
        f"{origin.name.rpartition('/')[2]}, trained", lead, origin, rows, readers_in(folder / "model"), training,
        unknown="Nothing was measured but the loss above, and no other model was compared with it.",
    )  # fmt: skip
    put(folder / "model", render(card), origin)


def _place(model: "str | Path | PreTrainedModel") -> "Reference | PreTrainedModel":
    return model_at(model) if isinstance(model, str | Path) else model
