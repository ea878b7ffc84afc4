"""Whether a family keeps invariants 1 and 2 of the design for a selection of blocks: checks that return what is wrong."""

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from forward import logits_of, logits_through, randomised, some_tokens
from safetensors import safe_open
from table import CARRIERS, CHANGES, CUT, DECODERS
from tiny import DEPTH, tiny_config
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inheritune.arch import find_structure, save_model
from inheritune.arch.compatible_types import CHANGED_VALUES
from inheritune.errors import InputError
from inheritune.inheritance import derive, inherit_settings, write
from inheritune.recipe import Reference

SELECTIONS = [[0], [0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 2, 5], [1, 2, 4], [0, 3, 5]]
TOLERANCE = 1e-5
NUMBERS = ("full_attn_idxs", "moe_layers", "local_layer_ids")  # lists of layer numbers, not of an entry a layer


def is_prefix(kept: list[int]) -> bool:
    """Whether these are the first blocks."""
    return kept == list(range(len(kept)))


@dataclass
class Verdict:
    """What became of one selection of one family: refused with a reason, or taken, with faults or none."""

    kind: str
    kept: list[int]
    refused: str = ""
    faults: list[str] = field(default_factory=list)


def reference_of(kind: str) -> PreTrainedModel:
    """A tiny model of the family with every parameter random, in evaluation mode; always the same, newly built."""
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(config_of(kind), dtype=torch.float32), scale=0.1)


def config_of(kind: str) -> PretrainedConfig:
    """The family's tiny config."""
    return tiny_config(kind, **CHANGES.get(kind, {}), **({"is_decoder": True} if kind in DECODERS else {}))


def skeleton_of(kind: str) -> PreTrainedModel:
    """The family's tiny model without memory, in case that it is not that tiny."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(kind), dtype=torch.float32)


def logits_with(model: PreTrainedModel, kept: list[int], tokens_BT: torch.Tensor) -> torch.Tensor:
    """What the whole model gives when all blocks but `kept` hand on what they got."""
    name = find_structure(model).blocks
    blocks = model.get_submodule(name)
    if model.config.model_type not in CUT or not is_prefix(kept):
        return logits_through(model, name, kept, tokens_BT, carries=model.config.model_type in CARRIERS)
    model.set_submodule(name, blocks[: len(kept)])
    try:
        return logits_of(model, tokens_BT)
    finally:
        model.set_submodule(name, blocks)


def check_all(kind: str, place: Path) -> Iterator[Verdict]:
    """The verdicts on all selections; `place` is a folder for the family's files.

    Files and generation are looked at for one block, all blocks, and the first selection taken that is no prefix. The
    others are taken by plans of the same kind.
    """
    scattered = False
    for kept in SELECTIONS:
        thorough = len(kept) in (1, DEPTH) or not (scattered or is_prefix(kept))
        verdict = check(kind, kept, place, thorough)
        scattered |= not is_prefix(kept) and not verdict.refused
        yield verdict


def check(kind: str, kept: list[int], place: Path, thorough: bool = True) -> Verdict:
    """Inherit the blocks `kept` of the family's tiny model, and look at everything that must hold.

    `place`: a folder for the family, in which its model's files are kept from one selection to the next; `thorough`:
    also inherit from these files, and generate with a cache.
    """
    verdict = Verdict(kind, kept)
    reference = reference_of(kind)
    try:
        target, _ = derive(reference, inherit_settings(kept))
    except InputError as error:
        verdict.refused = error.problems[0].what
        return verdict
    if len(kept) == DEPTH:
        verdict.faults += _faults_of_whole(reference, target)
    tokens_BT = some_tokens()
    with tempfile.TemporaryDirectory() as folder:  # written before anything has run: rwkv's forward changes its weights
        saved = Path(folder) / "model"
        save_model(target, None, saved)
        loaded, faults, stored, fields = loaded_from(saved)
    verdict.faults += faults
    found = logits_of(target, tokens_BT)
    expected = logits_with(reference, kept, tokens_BT)
    apart = (found - expected).abs().max().item()
    if not apart <= TOLERANCE:
        verdict.faults.append(f"logits differ from the reference's by {apart:.1e}")
    whole = logits_of(reference, tokens_BT)
    if len(kept) == DEPTH and not torch.equal(found, whole):
        verdict.faults.append("all blocks: the logits are not the reference's bit for bit")
    if len(kept) < DEPTH and (found - whole).abs().max() < 1e-3:
        verdict.faults.append("the yardstick is blunt: the logits are those of all blocks")
    if not torch.equal(logits_of(loaded, tokens_BT), found):
        verdict.faults.append("the saved model's logits are others")
    verdict.faults += _faults_of_saved(reference, loaded, kept, stored, fields)
    if thorough:
        verdict.faults += _faults_of_files(kind, kept, place, loaded)
        verdict.faults += _faults_of_generation(reference, target)
    return verdict


def _faults_of_files(kind: str, kept: list[int], place: Path, expected: PreTrainedModel) -> list[str]:
    """What differs when the same blocks are inherited from the reference's files, without loading it."""
    reference = place / "reference"
    if not reference.exists():
        save_model(reference_of(kind), None, reference)
    with tempfile.TemporaryDirectory() as folder:
        write(Reference(path=str(reference)), inherit_settings(kept), Path(folder) / "target")
        found, faults, _, _ = loaded_from(Path(folder) / "target")
    tensors = found.state_dict()
    differing = [name for name, tensor in expected.state_dict().items() if not torch.equal(tensors[name], tensor)]
    if differing:
        faults.append(f"from files: {differing[0]} is another")
    fields = [model.config.to_dict() | {"_name_or_path": ""} for model in (found, expected)]
    if fields[0] != fields[1]:
        faults.append("from files: the config is another")
    return faults


def _faults_of_whole(reference: PreTrainedModel, target: PreTrainedModel) -> list[str]:
    faults = []
    if target.config.to_dict() != reference.config.to_dict():
        faults.append("all blocks: the config is not the reference's")
    tensors = target.state_dict()
    faults += [
        f"all blocks: {name} is not the reference's"
        for name, tensor in reference.state_dict().items()
        if not torch.equal(tensors[name], tensor)
    ]
    return faults


def loaded_from(folder: Path) -> tuple[PreTrainedModel, list[str], Counter[tuple[int, ...]], dict[str, Any]]:
    """What plain transformers makes of a checkpoint, what it complains of, the stored tensors' shapes, the config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for tensor in [*loaded.parameters(), *loaded.buffers()]:  # kernels sum otherwise where memory is aligned otherwise
        tensor.data = tensor.data.clone()
    stored: Counter[tuple[int, ...]] = Counter()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as opened:
            stored.update(tuple(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    faults = [f"loading what was saved: {what} {sorted(names)[:2]}" for what, names in info.items() if names]
    return loaded.eval(), faults, stored, json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _faults_of_saved(
    reference: PreTrainedModel,
    loaded: PreTrainedModel,
    kept: list[int],
    stored: Counter[tuple[int, ...]],
    fields: dict[str, Any],
) -> list[str]:
    """Ties and lists of a saved target that are not as they should be."""
    faults = []
    head, embedding = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    if head is not None and embedding is not None:
        tied = head.weight is embedding.weight
        if tied != (reference.get_output_embeddings().weight is reference.get_input_embeddings().weight):
            faults.append("tied embeddings came apart, or untied ones together")
        rows = sum(stored[shape] for shape in {tuple(head.weight.shape), tuple(embedding.weight.shape)})
        if rows != (1 if tied else 2):
            faults.append(f"{rows} embedding matrices are stored")
    for name, value in reference.config.to_dict().items():
        if not isinstance(value, list) or len(value) != DEPTH or name not in fields or name in NUMBERS:
            continue
        older = CHANGED_VALUES.get(reference.config.model_type, {}).get(name, {})  # words that all versions read
        if fields[name] != json.loads(json.dumps([older.get(str(value[index]), value[index]) for index in kept])):
            faults.append(f"{name} of the saved config is {fields[name]}")
    return faults


def _generated(model: PreTrainedModel, use_cache: bool) -> Any:
    prompt_BT = some_tokens(length=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(
            prompt_BT, attention_mask=torch.ones_like(prompt_BT), use_cache=use_cache, max_new_tokens=4,
            min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip


def generation_of(model: PreTrainedModel) -> str:
    """'same' where generation with a cache gives what it gives without, 'differs', or the error that it ends in."""
    try:
        with_cache, without = _generated(model, True), _generated(model, False)
    except Exception as error:  # whatever the architecture stumbles over
        return f"{type(error).__name__}: {error}".split("\n")[0]
    same = torch.equal(with_cache.sequences, without.sequences)
    apart = (torch.stack(with_cache.logits) - torch.stack(without.logits)).abs().max()
    return "same" if same and apart < 1e-4 else "differs"


def _faults_of_generation(reference: PreTrainedModel, target: PreTrainedModel) -> list[str]:
    found = generation_of(target)
    if found == "same":
        return []
    own = generation_of(reference)
    if own == found:
        return []
    return [f"generation: {found}; of the reference: {own}"]
