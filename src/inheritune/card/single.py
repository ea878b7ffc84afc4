"""Cards of what single commands write: a checkpoint that was only inherited, a model of one training."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import Readers, readers_in
from inheritune.card.origin import CARD, Origin, origin_of, origin_of_loaded, unreachable
from inheritune.card.run import costs, machine, put, weights_in_words
from inheritune.card.text import PAPER, Card, code, lineage_rows, render
from inheritune.errors import InputError
from inheritune.recipe import Inherit, Reference, Training, model_at
from inheritune.report import markdown_text, short, spans, with_error
from inheritune.runlog import read_json, versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTES = "inheritance.json"


def inherited_files(
    reference: "Reference | PreTrainedModel", wish: Inherit, notes: Mapping[str, Any], parameters: int,
    readers: Readers, selection: Mapping[str, Any] | None = None,
) -> dict[str, str]:  # fmt: skip
    """README.md and the reference's licence, by name, for a checkpoint that is inherited and not trained.

    `notes` is the plan in figures (`describe_plan`), `readers` which versions of transformers load it, `selection` a
    measured choice as it was made.
    """
    origin = _origin(reference)
    blocks, total = notes["blocks"], notes["of"]
    chosen = "listed" if isinstance(wish.layers, list) else code(wish.choose)
    if selection is not None:
        chosen = f"{code(selection['choose'])}, measured: {markdown_text(selection['reason'])}"
    lead = (
        f"Blocks {spans(blocks)} of {markdown_text(origin.name)} ({total} blocks): {len(blocks)} blocks,"
        f" {short(parameters)} parameters, weights only, as the start of the method of {PAPER}.\n\n"
        "**It has not been trained since it was taken apart.** A model that lacks some of its blocks predicts badly"
        " until it is trained (`inheritune train`), and no figure of this one was measured."
    )
    rows = [
        *lineage_rows(origin, total, None), ("blocks kept", f"{spans(blocks)} of 0-{total - 1}"), ("chosen", chosen),
        ("weights that came along", weights_in_words(wish, notes)),
    ]  # fmt: skip
    title = f"{len(blocks)} of {total} blocks of {origin.name.rpartition('/')[2]}, untrained"
    unknown = "Everything that a measurement would say: none was made."
    code_too = isinstance(reference, Reference) and reference.trust_remote_code
    card = Card(title, lead, origin, rows, readers, unknown=unknown, trained=False, own_code=code_too)
    return {**origin.files, CARD: render(card)}


def write_trained_card(
    folder: Path, model: "str | Path | PreTrainedModel", found: Mapping[str, Any], settings: Training,
    facts: Mapping[str, Any], teacher: "str | Path | PreTrainedModel | None" = None,
) -> None:  # fmt: skip
    """Write README.md and the reference's licence into `folder`/model after a training of `model`, given its figures.

    `facts` say on what it was trained, as a manifest's start does. What is there is left as it is.
    """
    if (folder / "model" / CARD).exists() or not (folder / "model").is_dir():
        return
    origin = _origin(_place(model))
    notes = Path(str(model)) / _NOTES if isinstance(model, str | Path) else None
    inherited = read_json(notes, "blocks", "of") if notes is not None and notes.is_file() else None
    rows = lineage_rows(origin, None, None)
    if inherited is not None:
        rows.append(("its blocks", f"{spans(inherited['blocks'])} of {inherited['of']}, inherited before"))
    loss = with_error(found["val_loss"], found["val_loss_se"])
    lead = (
        f"{markdown_text(origin.name)} trained on {short(found['tokens'])} tokens: {found['layers']} blocks,"
        f" {short(found['parameters'])} parameters. Validation loss {loss} on"
        f" {found['validation_sequences']:,} sequences, none of which was trained on; ± is one standard error."
    )
    training = [*costs(found, settings), *machine({**facts, "versions": versions()})]
    if teacher is not None:
        training.insert(0, ("teacher", code(_origin(_place(teacher)).name)))
    card = Card(
        f"{origin.name.rpartition('/')[2]}, trained", lead, origin, rows, readers_in(folder / "model"), training,
        unknown="Nothing was measured but the loss above; no other model stands beside it.",
    )  # fmt: skip
    put(folder / "model", render(card), origin)


def _place(model: "str | Path | PreTrainedModel") -> "Reference | PreTrainedModel":
    return model_at(model) if isinstance(model, str | Path) else model


def _origin(reference: "Reference | PreTrainedModel") -> Origin:
    if not isinstance(reference, Reference):
        return origin_of_loaded(reference)
    try:
        return origin_of(reference)
    except (InputError, OSError):
        return unreachable(str(reference.path), reference.revision)
