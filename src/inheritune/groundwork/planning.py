"""What plans of a recipe and of a suite have in common: how much text there is, and trainings with their costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inheritune.data import nanogpt_files, open_prepared, tokens_in, typed
from inheritune.distillation import Layout
from inheritune.errors import InputError
from inheritune.groundwork.stages import reference_training
from inheritune.planner import SUMS, ModelProfile, Planned, Taught
from inheritune.recipe import Basis, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def text_size(basis: Basis, vocabulary: int) -> tuple[int | None, int]:
    """Tokens of training and validation text, as far as the recipe or a manifest says them: None where neither does, as
    where prepared text lies on another machine. Reads no text. Raises InputError for prepared data that is damaged.
    """
    data = basis.data
    if data.sources:
        return None if data.size is None else data.size.count, data.validation.count
    files = data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)
    if files is not None:
        try:
            sizes = [sum(map(tokens_in, found)) for found in typed(files, vocabulary).values()]
        except InputError:  # they lie on another machine, or only the tokenizer shows their type
            return None, data.validation.count
        return sizes[0], sizes[1]
    assert data.prepared is not None  # the recipe's check
    if not data.prepared.exists():
        return None, data.validation.count
    prepared = open_prepared(data.prepared)
    return len(prepared.tokens("train")), len(prepared.tokens("validation"))


def sequences_in(tokens: int | None, training: Training) -> int | None:
    """Sequences of a text of so many tokens; None where that is not known. Raises InputError for less than one."""
    length = training.sequence_length
    sequences = None if tokens is None else (tokens - 1) // length
    if sequences == 0:
        what = f"{tokens:,} tokens do not fill one sequence of {length}"
        raise InputError("data: training text", what, "give more text, or a smaller train.sequence_length")
    return sequences


def steps_in(tokens: int | None, training: Training) -> int | None:
    """Optimizer steps of a training on so many tokens of text; None where that depends on how many there are.

    Raises InputError for less than one.
    """
    sequences = sequences_in(tokens, training)
    steps = None if sequences is None and training.length.unit == "epochs" else training.steps(sequences or 0)
    if steps == 0:
        what = f"{training.length} is less than one step of {training.batch_tokens:,} tokens"
        raise InputError("train.length", what, "give a longer length or a smaller batch")
    return steps


def planned(
    name: str, anatomy: ModelProfile, kept: Sequence[int], config: "PretrainedConfig", training: Training,
    tokens: int | None, steps: int | None, counts: tuple[str, ...] = SUMS, seeds: int = 1,
    teacher: Taught | None = None,
) -> Planned:  # fmt: skip
    """A training of `steps` (0: only judged) on `tokens` of text."""
    sequences = sequences_in(tokens, training)
    epochs = None if not steps or not sequences else steps * training.batch_sequences / sequences
    return Planned(name, anatomy, tuple(kept), config, training, steps, epochs, counts, seeds, teacher)


def planned_reference(basis: Basis, whole: ModelProfile, config: "PretrainedConfig", tokens: int | None) -> Planned:
    """The reference: trained first where the recipe says so, else only judged."""
    new, kept = basis.reference.train, range(whole.depth)
    if new is None:
        return planned("reference", whole, kept, config, basis.train, tokens, 0)
    settings = reference_training(basis, new)
    return planned("reference", whole, kept, config, settings, tokens, steps_in(tokens, settings))


def taught(name: str, teacher: ModelProfile, training: Training, tokens: int | None, seeds: int = 1) -> Taught | None:
    """What a teacher costs a training that learns from it; None where it learns from the text alone.

    `outputs: auto` is priced as online: it stores them only where that takes less time.
    """
    spec = training.distillation
    if spec is None:
        return None
    length, vocabulary = training.sequence_length, teacher.config.vocab_size
    sequences = sequences_in(tokens, training)
    is_stored = spec.outputs == "stored" and sequences is not None
    size = Layout(length, vocabulary, spec.top_k).size if is_stored else 0
    return Taught(name, teacher, (sequences or 0) * length if is_stored else None, (sequences or 0) * size, seeds)
