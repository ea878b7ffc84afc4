"""What is looked at when a run has its result: heads and layers of reference and target, and what both say."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.analysis import analyze
from inheritune.arch import in_dtype, load_model, load_tokenizer, logits_width
from inheritune.data import Packing, Prepared, note_beside, open_prepared, packing_of
from inheritune.experiment.context import check_framing
from inheritune.recipe import EvaluateRun, Recipe, Reference
from inheritune.report import PAIR
from inheritune.runlog import Terminal, read_json, read_mapping, write_json
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SEQUENCES, _LENGTH = 100, 100  # the paper's; fewer and shorter where there is less text
_PROMPTS = 3
_PROMPT_LENGTH = 24  # tokens of a validation document that make a prompt
_SEARCHED = 2**18  # validation tokens in which beginnings of documents are looked for


def look(recipe: Recipe, folder: Path, result: str, place: Reference, runtime: Runtime, terminal: Terminal) -> bool:
    """Write analysis/ and samples.json into a run's `folder`, as its recipe's `evaluate` says; what is there is kept.

    `result` is the target's place in the folder, `place` the reference's. Where the text or the target was taken away
    since, that is said, and nothing is written. Returns whether anything was. Raises InputError where a model cannot be
    read.
    """
    spec = recipe.evaluate
    needed = (folder / "data", folder / result)
    target = Reference(path=str(folder / result), trust_remote_code=place.trust_remote_code)

    def wants() -> list[str]:
        found = ["analysis"] if spec.analyze and not (folder / "analysis" / "analysis.json").exists() else []
        found += ["samples"] if _wants_samples(spec, folder / "samples.json") else []
        gone = [str(one) for one in needed if not one.is_dir()]
        if found and gone:
            terminal.say(f"{' and '.join(found)}: left out, as {gone[0]} is gone")
        return [] if gone else found

    wanted = runtime.on_rank0(wants)
    if wanted:
        packing, judged = _packing(recipe, folder, target), folder / "reference" / "evaluation.json"
        runtime.on_rank0(lambda: check_framing(read_mapping(judged) if judged.exists() else {}, packing, judged))
    if "analysis" in wanted:
        _analyse(folder, [place, target], recipe, packing, runtime, terminal)
    if "samples" in wanted:
        runtime.on_rank0(lambda: _continue(spec, folder, [place, target], packing, runtime, terminal))
    return bool(wanted)


def _packing(recipe: Recipe, folder: Path, target: Reference) -> Packing:
    """How the run's text is seen; attention inside documents is left to its training."""
    return packing_of(open_prepared(folder / "data"), load_tokenizer(target), prefix=recipe.data.prefix)


def _wants_samples(spec: EvaluateRun, file: Path) -> bool:
    """Whether there are none yet that were asked for: other prompts, or more tokens, are answered anew."""
    if spec.prompts == []:
        return False
    if not file.exists():
        return True
    found = read_json(file, "new_tokens", "prompts")
    return bool(found["new_tokens"] != spec.new_tokens.count or spec.prompts not in (None, found["prompts"]))


def _analyse(
    folder: Path, pair: list[Reference], recipe: Recipe, packing: Packing, runtime: Runtime, terminal: Terminal
) -> None:  # fmt: skip
    """analysis/, on validation text. All processes look, as they read the data together; the first one writes."""
    data, length = folder / "data", min(_LENGTH, recipe.train.sequence_length)
    runtime.on_rank0(lambda: open_prepared(data).verify(note_beside(data)))  # once for both models
    there = (len(open_prepared(data).tokens("validation")) - packing.context) // length  # a run has a sequence at least
    count = min(_SEQUENCES, there)
    fewer = "" if count == _SEQUENCES else ", as the validation text has no more"
    terminal.say(f"analysis: reference and target on {count} sequences of {length} tokens{fewer}")
    analyze(
        pair, data=data, sequences=count, sequence_length=length, device=runtime.device,
        prefix=recipe.data.prefix,
        out=folder / "analysis" if runtime.is_rank0 else None, say=terminal.say,
    )  # fmt: skip


def _continue(
    spec: EvaluateRun, folder: Path, pair: list[Reference], packing: Packing, runtime: Runtime, terminal: Terminal
) -> None:  # fmt: skip
    """samples.json: the same prompts continued by both."""
    tokenizer = load_tokenizer(pair[1])  # the run's own
    prompts = spec.prompts or beginnings(open_prepared(folder / "data"), tokenizer, _PROMPTS)
    count = spec.new_tokens.count
    terminal.say(f"samples: {len(prompts)} prompts, continued by reference and target")

    def answers(place: Reference) -> list[str]:  # a function, so that one model is let go before the next comes
        model = in_dtype(load_model(place), "float32").to(runtime.device)
        return [greedy(model, tokenizer, text, count, packing.prefix) for text in prompts]

    models = [{"name": name, "continuations": answers(place)} for name, place in zip(PAIR, pair, strict=True)]
    write_json(folder / "samples.json", {"prompts": prompts, "models": models, "new_tokens": count})


def beginnings(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", count: int) -> list[str]:
    """The first words of up to `count` validation documents, spread evenly over the text, no two alike.

    Where tokens do not say where documents begin, places spread evenly stand for beginnings.
    """
    tokens = prepared.tokens("validation")
    row = tokens.read(0, min(len(tokens), _SEARCHED)).tolist()
    end = prepared.manifest["end_of_text"]
    starts = [0, *(place + 1 for place, token in enumerate(row) if token == end)]
    starts = [place for place in starts if place < len(row) - 1]
    if len(starts) < count:
        starts = [number * len(row) // count for number in range(count)]
    found: list[str] = []
    for place in [*starts[:: max(1, len(starts) // count)], *starts]:
        piece = row[place : place + _PROMPT_LENGTH]
        piece = piece[: piece.index(end)] if end in piece else piece
        text = str(tokenizer.decode(piece, skip_special_tokens=True)).strip()
        if text and text not in found and len(found) < count:
            found.append(text)
    return found


def greedy(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, count: int, prefix: Sequence[int]
) -> str:
    """What the model continues a prompt with, behind the tokens `prefix`: the likeliest token each time.

    Ends after `count` tokens, or with the text.

    Entries of the model's vocabulary that the tokenizer does not have are left out of account.
    Where both are longer than the model's positions, less is added, and of a prompt longer than half of them the last
    tokens are what it sees.
    """
    import torch
    from transformers import GenerationConfig

    text = tokenizer(prompt, add_special_tokens=False)["input_ids"]  # what it puts behind a text would end it
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        text = text[-max(1, max(positions - count, positions // 2) - len(prefix)) :]
        count = min(count, positions - len(prefix) - len(text))
    ids = torch.tensor([[*prefix, *text]], device=model.device)
    end = tokenizer.eos_token_id
    nameless = sorted(set(range(logits_width(model))) - set(tokenizer.get_vocab().values()))  # rows that pad a matrix
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=end, pad_token_id=end, suppress_tokens=nameless or None
    )
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    whole = tokenizer.decode(found, skip_special_tokens=True)
    return str(whole[len(before) :] if whole.startswith(before) else whole)
