"""After a run has its result: the analysis of reference and target, and samples of both."""

from dataclasses import replace
from pathlib import Path

from inheritune.analysis import analyze
from inheritune.arch import in_dtype, load_model, load_tokenizer
from inheritune.data import Packing, Sequences, note_beside, open_prepared, packing_of
from inheritune.evaluation import document_starts, greedy_answer, greedy_continuation, turn_ends
from inheritune.experiment.context import check_framing
from inheritune.experiment.setup import Setup
from inheritune.recipe import Recipe, Reference
from inheritune.report import PAIR
from inheritune.results import Continuations, Samples
from inheritune.runlog import logger, read_mapping

_SEQUENCES, _LENGTH = 100, 100  # the paper's; fewer and shorter where there is less text
_PROMPTS = 3


def write_post_run(recipe: Recipe, setup: Setup, result: str) -> bool:
    """Write analysis/ and samples.json where `evaluate` asks for them and they are missing; returns whether it did.

    `result` is the target's place in the run's folder. Nothing is written, and a line says so, where the text or the
    target was removed. Raises InputError for a model that cannot be read.
    """
    runtime, target = setup.runtime, setup.folder / result
    wanted = runtime.on_rank0(lambda: _wanted(recipe, setup, target))
    if not wanted:
        return False
    models = [setup.model, Reference(path=str(target), trust_remote_code=setup.model.trust_remote_code)]
    tokenizer, judged = load_tokenizer(models[1]), setup.reference / "evaluation.json"
    packing = packing_of(open_prepared(setup.data), tokenizer, prefix=recipe.data.prefix)
    runtime.on_rank0(lambda: check_framing(read_mapping(judged) if judged.exists() else {}, packing, judged))
    if "analysis" in wanted:
        _analyze(recipe, setup, models, packing)
    if "samples" in wanted:
        runtime.on_rank0(lambda: _sample(recipe, setup, models, packing))
    return True


def _wanted(recipe: Recipe, setup: Setup, target: Path) -> list[str]:
    """What is to be made. Samples of other prompts, or with another number of tokens, are made again."""
    spec, folder = recipe.evaluate, setup.folder
    wanted = ["analysis"] if spec.analyze and not (folder / "analysis" / "analysis.json").exists() else []
    if spec.prompts != []:
        samples = Samples.read_if_there(folder / "samples.json")
        same_length = samples is not None and samples.new_tokens == spec.new_tokens.count
        if samples is None or not same_length or spec.prompts not in (None, samples.prompts):
            wanted.append("samples")
    gone = [place for place in (setup.data, target) if not place.is_dir()]
    if wanted and gone:
        logger.info(f"{' and '.join(wanted)}: not made, as {gone[0]} is gone")
    return [] if gone else wanted


def _analyze(recipe: Recipe, setup: Setup, models: list[Reference], packing: Packing) -> None:
    """Write analysis/, on validation text. All processes take part; rank 0 writes."""
    runtime, data, length = setup.runtime, setup.data, min(_LENGTH, recipe.train.sequence_length)
    runtime.on_rank0(lambda: open_prepared(data).verify(note_beside(data)))  # once for both models
    packing = replace(packing, long_conversations="truncate")  # as `analyze` reads them
    text = Sequences(open_prepared(data).tokens("validation"), length, "data.validation", packing=packing)
    count = min(_SEQUENCES, text.count)
    fewer = "" if count == _SEQUENCES else ", as the validation text has no more"
    logger.info(f"analysis: reference and target on {count} sequences of {length} tokens{fewer}")
    analyze(
        models, data=data, sequences=count, sequence_length=length, device=runtime.device,
        prefix=recipe.data.prefix, out=setup.folder / "analysis" if runtime.is_rank0 else None,
    )  # fmt: skip


def _sample(recipe: Recipe, setup: Setup, models: list[Reference], packing: Packing) -> None:
    """Write samples.json: the same prompts, continued by both models."""
    spec, tokenizer = recipe.evaluate, load_tokenizer(models[1])
    prepared = open_prepared(setup.data)
    prompts = spec.prompts or document_starts(prepared, tokenizer, _PROMPTS)
    count, as_messages = spec.new_tokens.count, spec.prompts is not None and tokenizer.chat_template is not None
    how = "users' messages, answered" if as_messages else "prompts, continued"
    logger.info(f"samples: {len(prompts)} {how} by reference and target")

    def continued(name: str, place: Reference) -> Continuations:  # in a function, so that one model is freed first
        model = in_dtype(load_model(place), "float32").to(setup.runtime.device)
        if as_messages:
            texts = [greedy_answer(model, tokenizer, text, count) for text in prompts]
        else:
            ends = turn_ends(model) if prepared.has_conversations else ()
            texts = [greedy_continuation(model, tokenizer, text, count, packing.prefix, ends) for text in prompts]
        return Continuations(name=name, continuations=texts)

    both = [continued(name, place) for name, place in zip(PAIR, models, strict=True)]
    noted = {"as_messages": True} if as_messages else {}
    Samples(prompts=prompts, models=both, new_tokens=count, **noted).write(setup.folder / "samples.json")
