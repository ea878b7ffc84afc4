"""Cards of a run's models, from the files in its folder."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from inheritune.arch import readers_in
from inheritune.card.origin import CARD, Origin, origin_of, unreachable
from inheritune.card.text import MARK, PAPER, Card, code, datasets_of, lineage_rows, render, tasks_table
from inheritune.errors import InherituneError, InputError, shown_line
from inheritune.recipe import MEASURED, Inherit, Recipe, Training
from inheritune.redaction import public
from inheritune.report import (
    loss_note,
    markdown_block,
    markdown_text,
    short,
    spans,
    table,
    verdict,
    with_error,
)
from inheritune.results import (
    BlockChoice,
    EvaluationResult,
    Inherited,
    Manifest,
    Round,
    RunSummary,
    Start,
    TrainingSpent,
    VocabularyResult,
)
from inheritune.runlog import duration, logger, read_json, write_json, write_text

_ORIGIN = "origin.json"  # in the run's reference/: kept in case the reference is moved later


def write_cards(folder: Path, recipe: Recipe, summary: RunSummary) -> None:
    """Write README.md, and the reference's licence, into the folders of all rounds' models of a finished run.

    A card that a person has written is left alone. Where the reference's files are out of reach the card says that the
    licence is unknown, and why.
    """
    manifest = Manifest.read_if_there(folder / "manifest.json") or Manifest()
    origin = _origin(folder, recipe, summary, manifest.lineage.revision)
    for number, one in enumerate(summary.rounds, 1):
        if (folder / one.model).is_dir():
            card = _card(folder, recipe, summary, number, origin, manifest.starts[:1])
            put(folder / one.model, render(card), origin)


@contextlib.contextmanager
def without_stopping(remedy: str) -> Iterator[None]:
    """Inside, an error does not stop what is finished; a warning has it with the remedy."""
    try:
        yield
    except Exception as error:
        what = str(error) if isinstance(error, InherituneError) else f"{type(error).__name__}: {error}"
        logger.warning(f"the model's card cannot be written ({shown_line(what)[:300]}); the model is whole; {remedy}")


def put(place: Path, text: str, origin: Origin) -> None:
    """Write a card and the reference's licence files into a model's folder; a person's own files stay."""
    card = place / CARD
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        return
    for name, content in origin.files.items():
        if not (place / name).exists():
            write_text(place / name, content)
    write_text(card, text)


def _origin(folder: Path, recipe: Recipe, summary: RunSummary, revision: str | None) -> Origin:
    """What is known of the reference; kept once it is known."""
    kept = folder / "reference" / _ORIGIN
    if kept.exists():
        with contextlib.suppress(ValueError, InputError):  # one that is damaged is made again
            return TypeAdapter(Origin).validate_python(read_json(kept))
    try:
        origin = origin_of(recipe.reference, revision)
    except (InputError, OSError):
        return unreachable(summary.reference.name, revision)
    write_json(kept, asdict(origin))
    return origin


def _card(folder: Path, recipe: Recipe, summary: RunSummary, number: int, origin: Origin, starts: list[Start]) -> Card:
    own, reference = summary.rounds[number - 1], summary.reference
    is_result = own.model == summary.result.model
    tasks = EvaluationResult.read_if_there(folder / "tasks.json") if is_result else None
    place = f"{number} of {len(summary.rounds)}; {'' if is_result else 'not '}the run's result"
    shown = summary.model_copy(update={"rounds": [own], "controls": summary.controls if is_result else []})
    losses = table(shown)  # controls were made for the result
    losses.rows[1][0] = "this model"
    tree = public(recipe.model_dump(mode="json", exclude_defaults=True))
    recipe_yaml = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    note = loss_note(summary, recipe.train.sequence_length)
    before = ""
    if recipe.reference.train is None:
        before = " What the reference was trained on is not known here; this validation text may be among it."
    return Card(
        title=f"{own.layers} of {reference.layers} blocks of {origin.name.rpartition('/')[2]}",
        lead=_lead(summary, own, origin, is_result),
        origin=origin,
        lineage=[
            *lineage_rows(origin, reference.layers, short(reference.parameters)),
            *_kept(folder, recipe.inherit, own, reference.layers),
            *([] if summary.vocabulary is None else [_vocabulary(summary.vocabulary)]),
            ("round", place),
        ],
        readers=readers_in(folder / own.model),
        training=_training(recipe, summary, own, starts),
        losses=f"{losses.markdown()}\n\n{note}",
        tasks=tasks_table(tasks) if tasks else "",
        recipe="\n".join(markdown_block(recipe_yaml.strip(), "yaml")),
        unknown=(
            "Nothing was measured but what is shown above. Other text than this validation text may show another"
            f" distance to the reference.{before} This model has its weights from the reference, with whatever that was"
            " trained on, and whatever errors and biases it has."
        ),
        datasets=datasets_of(recipe.data.sources),
        own_code=recipe.reference.trust_remote_code,
    )


def _lead(summary: RunSummary, own: Round, origin: Origin, is_result: bool) -> str:
    reference = summary.reference
    tuned = ", tuned on the same text," if reference.tuned_step else ""
    made = (
        f"A language model of {own.layers} blocks and {short(own.parameters)} parameters: it began with blocks"
        f" {spans(own.blocks)} of {markdown_text(origin.name)} ({reference.layers} blocks){tuned} and was trained on"
        f" {short(own.all_tokens)} tokens, by the method of {PAPER}."
    )
    if is_result:
        return f"{made}\n\n{markdown_text(verdict(summary))}"
    gap = with_error(own.gap, own.gap_se, sign=True)
    return (
        f"{made}\n\nValidation loss {own.val_loss:.4f}, the reference {reference.val_loss:.4f} (gap {gap})."
        " It is not the result of its run, which is another round."
    )


def _kept(folder: Path, spec: Inherit, own: Round, total: int) -> list[tuple[str, str]]:
    """Which blocks, how they were chosen and why, and what else was inherited."""
    made = BlockChoice.read_if_there(folder / "selection.json")
    if isinstance(spec.layers, list):
        chosen = "listed in the recipe"
    elif spec.choose in MEASURED and made is not None:
        tokens = made.calibration.sequences * made.calibration.sequence_length
        chosen = f"{code(spec.choose)}, measured on {tokens:,} tokens of training text: {markdown_text(made.reason)}"
    else:
        chosen = code(spec.choose)
    notes = Inherited.read_if_there((folder / own.model).parent / "inherited.json")
    rows = blocks_rows(own.blocks, total, chosen, spec, notes)
    if notes is not None and notes.from_round:
        blocks = spans(notes.blocks_from_round or [])
        rows.append(("resumed from", f"round {code(notes.from_round)}, whose blocks were {blocks}"))
    return rows


def _vocabulary(trimmed: VocabularyResult) -> tuple[str, str]:
    longer = f"held-out text is {trimmed.longer:.1%} longer in tokens"
    loss = f"{trimmed.nats_per_byte:.4f} nats a byte instead of {trimmed.reference_nats_per_byte:.4f}"
    tokens = f"{trimmed.tokens:,} of {trimmed.reference_tokens:,} tokens"
    return "vocabulary", f"{tokens}; of the reference with these alone, {longer}, at {loss}"


def blocks_rows(
    blocks: list[int], total: int, chosen: str, spec: Inherit, notes: Inherited | None
) -> list[tuple[str, str]]:
    """Which blocks were kept, how they were chosen, and which of their weights were inherited."""
    which = spec.submodules if isinstance(spec.submodules, str) else ", ".join(spec.submodules)
    words = "all" if which == "all" else f"{which}; the rest began anew"
    if not spec.is_full_width:
        words += f"; of {', '.join(f'{axis} {value}' for axis, value in spec.widths.items())}"
    words += f" ({notes.tensors_fresh} tensors new)" if notes is not None and notes.tensors_fresh else ""
    rows = [("blocks kept", f"{spans(blocks)} of 0-{total - 1}"), ("chosen", chosen), ("weights inherited", words)]
    if notes is not None and (shape := notes.shape) is not None:
        tried = f"the best of {len(shape.candidates)} shapes" if shape.tokens else "the most whole blocks"
        rows.append(("shape", f"{shape.best.words}: {tried} for {shape.goal}"))
        speeds = {"generation": shape.best.generation, "training": shape.best.training}
        fast = [f"{work} {one.times:.2f} times as fast" for work, one in speeds.items() if one is not None]
        if fast:
            rows.append(("speed", f"{', '.join(fast)} as the reference, with random weights on {shape.measured_on}"))
    if notes is not None and (units := notes.units) is not None:
        chosen_by = [f"{units.kept[axis]:,} {axis} by {name}" for axis, name in units.criteria.items()]
        if units.rotated:
            chosen_by.append(f"{units.kept['hidden']:,} hidden channels, the first principal components")
        rows.append(("units kept", ", ".join(chosen_by)))
    if notes is not None and (fit := notes.refit) is not None:
        what = (
            f"{fit.matrices} matrices by least squares to the reference's hidden states behind the removed blocks, on"
            f" {fit.sequences:,} sequences of {fit.sequence_length:,} tokens"
        )
        rows.append(("refitted", what))
    return rows


def _training(recipe: Recipe, summary: RunSummary, own: Round, starts: list[Start]) -> list[tuple[str, str]]:
    names = [code(public(source.title)) for source in recipe.data.sources]
    rows = [("text", ", ".join(names) or "prepared before the run"), *costs(own, recipe.train)]
    if recipe.train.distillation is not None:
        rows.append(("teacher", f"the reference; {own.all_teacher_flops or 0:.2g} FLOPs of its own"))
    rows.append(("time of the whole run", duration(summary.wall_seconds)))
    return rows + [row for start in starts for row in machine(start)]


def costs(spent: TrainingSpent, settings: Training) -> list[tuple[str, str]]:
    """What a training cost, and how it was done. Rounds before it count where `spent` is a round's."""
    optimizer, before = settings.optimizer, spent.given()
    tokens, left = before.get("tokens_before", 0), spent.left_over_tokens
    unfilled = f"; {left:,} more were asked for, and fill no step" if left else ""
    earlier = f"; {tokens:,} more in the rounds that it resumed from" if tokens else ""
    return [
        (
            "tokens",
            f"{spent.tokens:,} ({spent.epochs:.3g} times through the text), {spent.steps:,} steps of"
            f" {settings.batch_tokens:,}, sequences of {settings.sequence_length:,}{unfilled}{earlier}",
        ),
        ("FLOPs", f"{spent.flops + before.get('flops_before', 0):.3g} (6 N + 12 L H Q T a token)"),
        ("optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {settings.schedule.name}"),
        ("time of its steps", f"{duration(spent.seconds)}, {spent.tokens_per_second or 0:,.0f} tokens/s"),
    ]


def machine(start: Start) -> list[tuple[str, str]]:
    """On what and with what, from a record of a start. A run's later ones may have found it finished."""
    threads = f"{start.threads} thread" + ("" if start.threads == 1 else "s")
    several = f"{start.processes} processes" if start.processes > 1 else threads
    place = "; ".join(filter(None, [start.machine, f"{start.gpu or start.device}, {several}"]))
    named = [
        f"{name} {start.versions[name]}" for name in ("inheritune", "torch", "transformers") if name in start.versions
    ]
    return [("on", markdown_text(place)), ("with", ", ".join(named))]
