"""The card itself: metadata that the hub reads, and a text for people. Pure functions of recorded figures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inheritune.arch import TRIED, Readers
from inheritune.card.origin import UNKNOWN, Origin
from inheritune.redaction import visible, without_secrets
from inheritune.report import harness_note, markdown_table, markdown_text, start_note, task_table
from inheritune.results import EvaluationResult
from inheritune.runlog import package_versions

MARK = "<!-- Written by inheritune, and written anew by it. Take this line away to keep a card of your own. -->"
"""The line of a card that inheritune wrote; one without it is a person's."""

PLACE = "PATH-OR-REPOSITORY"
"""Stands for the model's repository until `push` knows it."""

TAG = "inheritune"
PAPER = "[arXiv 2404.08634](https://arxiv.org/abs/2404.08634)"
_DATA_SET = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", re.ASCII)
_HUB_DATA = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)")
Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """The parts of a card. `lineage` and `training` are rows of a label and Markdown; the others Markdown, "" for none.

    `datasets` are ids on the hub. `trained`: a training of ours changed the weights, else they are the reference's own.
    """

    title: str
    lead: str
    origin: Origin
    lineage: Rows
    readers: Readers
    training: Rows = ()
    losses: str = ""
    tasks: str = ""
    recipe: str = ""
    unknown: str = ""
    datasets: tuple[str, ...] = ()
    trained: bool = True
    own_code: bool = False


def render(card: Card) -> str:
    """The text of README.md."""
    from huggingface_hub import ModelCard

    card_text = ModelCard.from_template(
        metadata_of(card),
        template_str=(Path(__file__).parent / "card.md").read_text(encoding="utf-8"),
        title=markdown_text(card.title), lead=card.lead, lineage=_rows(card.lineage), training=_rows(card.training),
        losses=card.losses, tasks=card.tasks, recipe=card.recipe, unknown=card.unknown, place=PLACE, mark=MARK,
        readers=readers_in_words(card.readers),
        code=", trust_remote_code=True" if card.own_code else "", **package_versions(["inheritune"]),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", str(card_text)).rstrip() + "\n"


def metadata_of(card: Card) -> Any:
    """A `huggingface_hub.ModelCardData`. A base model is named where its id on the hub is known."""
    from huggingface_hub import ModelCardData

    origin, licence = card.origin, card.origin.licence
    further: dict[str, Any] = {"license": licence.id}  # the signature of ModelCardData forbids a list, the hub does not
    if origin.hub_id is not None and card.trained:
        further["base_model_relation"] = "finetune"  # the nearest of the four that the hub knows
    return ModelCardData(
        base_model=origin.hub_id,
        license_name=licence.name,
        license_link=licence.link,
        language=origin.language,
        datasets=list(card.datasets) or None,
        tags=[TAG],
        library_name="transformers",
        pipeline_tag="text-generation",
        **further,
    )


def readers_in_words(readers: Readers) -> str:
    """Which versions of transformers load the model, and which were tried."""
    old, new = TRIED
    if readers.reason_for_5:
        return f"It needs transformers 5 (tried: {new}): {readers.reason_for_5}."
    text = (
        f"transformers 4.57 and transformers 5 both read these files (tried: {old} and {new}, with the same logits from"
        f" small models of type {code(readers.model_type)})."
    )
    if readers.eager:
        text += ' In transformers 4, give `from_pretrained` also `attn_implementation="eager"`, else the logits differ.'
    return text


def lineage_rows(origin: Origin, layers: int | None, parameters: str | None) -> list[tuple[str, str]]:
    """The rows of a card on the model that it was made of."""
    named = markdown_text(origin.name) if " " in origin.name else code(origin.name)
    if origin.hub_id is not None:
        link = f"[{origin.hub_id}](https://huggingface.co/{origin.hub_id})"
        named = f"{code(origin.name)}, itself made of {link}" if origin.made else link
    size = [f"{layers} blocks" if layers else "", f"{parameters} parameters" if parameters else ""]
    licence = origin.licence
    ids = licence.id if isinstance(licence.id, str) else ", ".join(licence.id)
    known = f"{code(ids)}, taken over from {licence.source}"
    unknown = f"unknown: {licence.source}. Find out before you use or pass on this model"
    rows = [("reference", named + "".join(f", {part}" for part in size if part))]
    if not origin.made:
        rows.append(("its revision", code(origin.revision) if origin.revision else "not known"))
    if origin.left_out:
        rows.append(("not taken over from it", markdown_text("; ".join(origin.left_out))))
    return [*rows, ("licence", known if licence.id != UNKNOWN else unknown)]


def tasks_table(result: EvaluationResult) -> str:
    """tasks.json as a table, the reference beside this model; "" where it has no figure."""
    models = [one.model_copy(update={"name": "this model"}) if one.name == "target" else one for one in result.models]
    shown = task_table(models)
    if not shown.rows:
        return ""
    notes = ["± is one standard error.", harness_note(result), start_note(models)]
    return "\n".join([shown.markdown(), "", *filter(None, notes)])


def datasets_of(sources: Sequence[Any]) -> tuple[str, ...]:
    """The ids of the hub's data sets among a recipe's `data.sources`."""
    ids = []
    for source in sources:
        match = _HUB_DATA.match(source.path or "")
        if match is not None:
            ids.append(match[1])
        elif source.dataset is not None and _DATA_SET.fullmatch(source.dataset) and not Path(source.dataset).exists():
            ids.append(source.dataset)
    return tuple(dict.fromkeys(ids))


def code(text: str) -> str:
    """`text` as code, in a cell of a table too."""
    return "`" + visible(" ".join(without_secrets(text).split())).replace("`", "'").replace("|", r"\|") + "`"


def _rows(rows: Rows) -> str:
    return "\n".join(markdown_table(["", ""], [list(row) for row in rows])) if rows else ""
