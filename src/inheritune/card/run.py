"""Cards of a run's models, from the files in its folder."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from inheritune.arch import readers_in
from inheritune.card.origin import CARD, Origin, origin_of, unreachable
from inheritune.card.text import (
    MARK,
    PAPER,
    Card,
    code,
    datasets_of,
    lineage_rows,
    render,
    tasks_table,
)
from inheritune.errors import InherituneError, InputError, shown_line
from inheritune.recipe import MEASURED, Inherit, Recipe, Training
from inheritune.redaction import public
from inheritune.report import (
    duration,
    markdown_block,
    markdown_table,
    markdown_text,
    read_tasks,
    short,
    spans,
    table,
    verdict,
    with_error,
)
from inheritune.runlog import read_json, read_mapping, write_json, write_text

_ORIGIN = "origin.json"  # in the run's reference/: what was found out about it, so that a moved reference is no loss


def write_cards(folder: Path, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write README.md, and the reference's licence, into the folders of all rounds' models of a finished run.

    A card that a person has written is left alone. Where the reference's files are out of reach the licence is said to
    be unknown, and why.
    """
    origin = _origin(folder, recipe, summary)
    for number, found in enumerate(summary["rounds"], 1):
        place = folder / found["model"]
        if place.is_dir():
            put(place, render(_card(folder, recipe, summary, number, origin)), origin)


@contextlib.contextmanager
def without_stopping(say: Callable[[str], None], remedy: str) -> Iterator[None]:
    """Inside, nothing that goes wrong stops what is finished: it is told to `say`, with the remedy."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, InherituneError) else f"{type(error).__name__}: {error}"
        say(f"the model's card cannot be written ({shown_line(said)[:300]}); the model is whole; {remedy}")


def put(place: Path, text: str, origin: Origin) -> None:
    """Write a card and the reference's licence files into a model's folder; what a person has put there stays."""
    card = place / CARD
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        return
    for name, content in origin.files.items():
        if not (place / name).exists():
            write_text(place / name, content)
    write_text(card, text)


def _origin(folder: Path, recipe: Recipe, summary: Mapping[str, Any]) -> Origin:
    """What is known of the reference; kept once it is known."""
    kept = folder / "reference" / _ORIGIN
    if kept.exists():
        with contextlib.suppress(ValueError, InputError):  # one that is damaged is made again
            return Origin.of(read_json(kept, *(field.name for field in fields(Origin)), "licence"))
    revision = _manifest(folder).get("lineage", {}).get("revision")
    try:
        found = origin_of(recipe.reference, revision)
    except (InputError, OSError):
        return unreachable(str(summary["reference"]["name"]), revision)
    write_json(kept, asdict(found))
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    return read_mapping(file) if file.exists() else {}


def _card(folder: Path, recipe: Recipe, summary: dict[str, Any], number: int, origin: Origin) -> Card:
    found, reference = summary["rounds"][number - 1], summary["reference"]
    is_result = found["model"] == summary["result"]["model"]
    tasks = read_tasks(folder / "tasks.json") if is_result else None
    return Card(
        title=f"{found['layers']} of {reference['layers']} blocks of {origin.name.rpartition('/')[2]}",
        lead=_lead(summary, number, origin, is_result),
        origin=origin,
        lineage=[
            *lineage_rows(origin, reference["layers"], short(reference["parameters"])),
            *_kept(folder, recipe.inherit, found, reference["layers"]),
            ("round", _round(summary, number, is_result)),
        ],
        readers=readers_in(folder / found["model"]),
        training=_training(folder, recipe, summary, found),
        losses=_losses(summary, number, is_result, recipe.train.sequence_length),
        tasks="" if tasks is None else tasks_table(tasks),
        recipe=_recipe(recipe),
        unknown=_UNKNOWN,
        datasets=datasets_of(recipe.data.sources),
        own_code=recipe.reference.trust_remote_code,
    )


def _recipe(recipe: Recipe) -> str:
    """The recipe as strangers may read it, as a block of Markdown."""
    tree = public(recipe.model_dump(mode="json", exclude_defaults=True))
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).strip()
    return "\n".join(markdown_block(text, "yaml"))


_UNKNOWN = (
    "Nothing was measured but what stands above. Validation text is of the same sources as the training text, so other"
    " text may show another distance to the reference. Whatever the reference was trained on, and whatever it has of"
    " errors and biases, this model has its weights from."
)


def _lead(summary: dict[str, Any], number: int, origin: Origin, is_result: bool) -> str:
    found, reference = summary["rounds"][number - 1], summary["reference"]
    tokens = found["tokens"] + found.get("tokens_before", 0)
    made = (
        f"A language model of {found['layers']} blocks and {short(found['parameters'])} parameters: it began with"
        f" blocks {spans(found['blocks'])} of {markdown_text(origin.name)} ({reference['layers']} blocks) and was"
        f" trained on {short(tokens)} tokens, by the method of {PAPER}."
    )
    if is_result:
        return f"{made}\n\n{markdown_text(verdict(summary))}"
    gap = with_error(found["gap"], found["gap_se"], sign=True)
    return (
        f"{made}\n\nValidation loss {found['val_loss']:.4f}, the reference {reference['val_loss']:.4f} (gap {gap})."
        " It is not the result of its run, which is another round."
    )


def _round(summary: Mapping[str, Any], number: int, is_result: bool) -> str:
    return f"{number} of {len(summary['rounds'])}" + ("; the run's result" if is_result else "; not the run's result")


def _kept(folder: Path, spec: Inherit, found: Mapping[str, Any], total: int) -> list[tuple[str, str]]:
    """Which blocks, how they were chosen and why, and what else came along."""
    selection = folder / "selection.json"
    if isinstance(spec.layers, list):
        chosen = "listed in the recipe"
    elif spec.choose in MEASURED and selection.exists():
        facts = read_json(selection, "calibration.sequences", "calibration.sequence_length", "reason")
        seen = facts["calibration"]
        tokens = seen["sequences"] * seen["sequence_length"]
        chosen = (
            f"{code(spec.choose)}, measured on {tokens:,} tokens of training text: {markdown_text(facts['reason'])}"
        )
    else:
        chosen = code(spec.choose)
    notes = (folder / found["model"]).parent / "inherited.json"
    facts = read_mapping(notes) if notes.exists() else {}
    rows = [("blocks kept", f"{spans(found['blocks'])} of 0-{total - 1}"), ("chosen", chosen)]
    rows.append(("weights that came along", weights_in_words(spec, facts)))
    if facts.get("from_round"):
        blocks = spans(facts["blocks_from_round"])
        rows.append(("went on from", f"round {code(facts['from_round'])}, whose blocks were {blocks}"))
    return rows


def weights_in_words(spec: Inherit, facts: Mapping[str, Any]) -> str:
    """Which weights of the kept blocks were inherited."""
    which = spec.submodules if isinstance(spec.submodules, str) else ", ".join(spec.submodules)
    words = "all" if which == "all" else f"{which}; the rest began anew"
    if spec.width == "half":
        words += "; the first half of heads, hidden size and MLP"
    fresh = facts.get("tensors_fresh")
    return words + (f" ({fresh} tensors new)" if fresh else "")


def _training(
    folder: Path, recipe: Recipe, summary: Mapping[str, Any], found: Mapping[str, Any]
) -> list[tuple[str, str]]:
    settings = recipe.train
    names = [code(public(source.title)) for source in recipe.data.sources]
    rows = [("text", ", ".join(names) or "prepared before the run"), *costs(found, settings)]
    if recipe.train.distillation is not None:
        rows.append(("teacher", f"the reference; {found.get('teacher_flops', 0):.2g} FLOPs of its own"))
    rows.append(("time of the whole run", duration(summary["wall_seconds"])))
    starts = _manifest(folder).get("starts")
    if starts:
        rows += machine(starts[0])  # the later ones may have found it finished
    return rows


def costs(found: Mapping[str, Any], settings: Training) -> list[tuple[str, str]]:
    """What a training took, and how it was done."""
    optimizer, schedule = settings.optimizer, settings.schedule.name
    before = found.get("tokens_before", 0)
    earlier = f"; {before:,} more in the rounds that it went on from" if before else ""
    return [
        (
            "tokens",
            f"{found['tokens']:,} ({found['epochs']:.3g} times through the text), {found['steps']:,} steps of"
            f" {settings.batch_tokens:,}, sequences of {settings.sequence_length:,}{earlier}",
        ),
        ("FLOPs", f"{found['flops'] + found.get('flops_before', 0):.3g} (6 N + 12 L H Q T a token)"),
        ("optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {schedule}"),
        ("time of its steps", f"{duration(found['seconds'])}, {found['tokens_per_second'] or 0:,.0f} tokens/s"),
    ]


def machine(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    """On what and with what, from a manifest's record of a start."""
    device = start.get("gpu") or start.get("device", "")
    several = f"{start['processes']} processes" if start.get("processes", 1) > 1 else _threads(start)
    place = "; ".join(filter(None, [start.get("machine", ""), f"{device}, {several}"]))
    versions = start.get("versions", {})
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("inheritune", "torch", "transformers") if name in versions
    )
    return [("on", markdown_text(place)), ("with", named)]


def _threads(start: Mapping[str, Any]) -> str:
    return f"{start.get('threads')} thread" + ("" if start.get("threads") == 1 else "s")


def _losses(summary: dict[str, Any], number: int, is_result: bool, length: int) -> str:
    own = summary["rounds"][number - 1]
    controls = summary["controls"] if is_result else []  # they were made for the result
    header, rows = table(summary | {"rounds": [own], "controls": controls})
    rows[1][0] = "this model"
    lines = markdown_table(header, [[markdown_text(cell) for cell in row] for row in rows])
    lines += [
        "",
        f"Mean loss in nats a token on {summary['validation_sequences']:,} sequences of {length:,} tokens, the same for"
        " all, none of which was trained on. The gap is that to the reference, sequence by sequence; ± is one standard"
        f" error; matched means a gap of at most {summary['tolerance']:g}.",
    ]
    return "\n".join(lines)
