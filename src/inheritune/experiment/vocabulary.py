"""A run whose models have a smaller vocabulary: the reference loses tokens first, and takes the reference's place."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inheritune.arch import in_dtype, load_model, load_tokenizer, parameter_count
from inheritune.data import Prepared
from inheritune.evaluation import compare_vocabularies
from inheritune.experiment.setup import Setup, prepare_data
from inheritune.experiment.store import once
from inheritune.inheritance import trim_vocabulary
from inheritune.recipe import Recipe, Reference, vocabulary_count
from inheritune.results import VocabularyResult
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "vocabulary"
_JUDGED = 64  # validation documents, spread evenly


def trim_reference(recipe: Recipe, setup: Setup) -> tuple[Recipe, VocabularyResult | None]:
    """The recipe with the trimmed reference in the reference's place, and what was trimmed; None where nothing is.

    `vocabulary/` in the run's folder has the text as the reference splits it, and the trimmed reference. The tokens are
    chosen on the training text, and judged on the validation text. Raises InputError as `trim_vocabulary` does.
    """
    if recipe.inherit.vocabulary is None:
        return recipe, None
    folder, runtime = setup.folder / FOLDER, setup.runtime
    result = once(
        runtime, folder / "trimmed.json", VocabularyResult, lambda: runtime.on_rank0(lambda: _trim(recipe, folder)),
        folder / "model",
    )  # fmt: skip
    logger.info(
        f"vocabulary: {result.tokens:,} of {result.reference_tokens:,} tokens, {result.parameters:,} of"
        f" {result.reference_parameters:,} parameters; validation text is {result.longer:.2%} longer, at"
        f" {result.nats_per_byte:.4f} nats a byte instead of {result.reference_nats_per_byte:.4f}"
    )
    trimmed = Reference(
        path=str(folder / "model"), tune=recipe.reference.tune, trust_remote_code=recipe.reference.trust_remote_code
    )
    inherit = recipe.inherit.model_copy(update={"vocabulary": None})
    return recipe.model_copy(update={"reference": trimmed, "inherit": inherit}), result


def _trim(recipe: Recipe, folder: Path) -> VocabularyResult:
    """Trim the reference, and compare it with what it was."""
    origin = recipe.reference
    folder.mkdir(exist_ok=True)
    prepared = prepare_data(recipe, folder / "data")
    tokenizer = load_tokenizer(origin)
    if (folder / "model").exists():  # of a start that was killed before it was judged
        shutil.rmtree(folder / "model")
    logger.info("vocabulary: choosing tokens on the training text")
    assert recipe.inherit.vocabulary is not None
    size = vocabulary_count(recipe.inherit.vocabulary, len(tokenizer))
    made = trim_vocabulary(origin, _texts(prepared, "train", tokenizer), size, out=folder / "model")
    held_out = [text for text in _texts(prepared, "validation", tokenizer) if text]
    texts = [held_out[at] for at in np.linspace(0, len(held_out) - 1, min(_JUDGED, len(held_out))).round().astype(int)]
    logger.info(f"vocabulary: comparing losses on {len(texts)} validation documents")
    trimmed = Reference(path=str(folder / "model"), trust_remote_code=origin.trust_remote_code)
    pairs = [(in_dtype(load_model(one), "float32"), load_tokenizer(one)) for one in (origin, trimmed)]
    cost = compare_vocabularies(pairs[0], pairs[1], texts)
    return VocabularyResult(
        reference=origin.title, tokens=len(made.kept), reference_tokens=made.of, parameters=made.parameters,
        reference_parameters=parameter_count(pairs[0][0]), documents=len(texts), longer=cost.split.longer,
        same=cost.split.same, nats_per_byte=cost.trimmed.value, reference_nats_per_byte=cost.reference.value,
        gap=cost.gap.value, gap_se=cost.gap.error,
    )  # fmt: skip


def _texts(prepared: Prepared, split: str, tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    """The documents of prepared text."""
    tokens = prepared.tokens(split).read()
    ends = np.flatnonzero(tokens == prepared.end_of_text)
    for start, end in zip([0, *(ends + 1)], [*ends, len(tokens)], strict=True):
        if end > start:
            yield tokenizer.decode(tokens[start:end].tolist(), skip_special_tokens=True)
