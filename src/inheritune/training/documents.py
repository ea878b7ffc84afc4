"""Attention inside documents: a model sees each of several documents in a sequence as if it were alone."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from inheritune.arch import check_room, find_structure
from inheritune.arch.inspection import POSITION
from inheritune.errors import InputError

_LENGTHS = (5, 7)  # tokens of the two documents of a trial
_BEYOND = 16  # by how many tokens a document of a trial exceeds a length in the config
_PASSED: set[tuple[type, str, int, int]] = set()  # class, config, and lengths of trials that passed
_MASKED = -1e30  # lower logits are those of entries that a model forbids
_COMPARED = 8  # tokens at the end of a document beyond a length whose outputs are compared

# Fields of configs that hold lengths: of local attention and the like, and of positions that change with the length.
_LOCAL = re.compile("window|chunk|floor|local_attention|index_topk|block_size|compress|extent")
_ORIGINAL = re.compile("max_position_embeddings")
_STEADY = {"default", "linear", "llama3", "proportional", "yarn"}  # rotary positions that know no length


def document_positions(inputs_BT: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """The place of each token in its document, (B, T): from 0 at the start of a sequence and after an end-of-text."""
    places_T = torch.arange(inputs_BT.shape[1], device=inputs_BT.device)
    begins_BT = torch.zeros_like(inputs_BT)
    begins_BT[:, 1:] = torch.where(inputs_BT[:, :-1] == end_of_text, places_T[1:], 0)
    return places_T - begins_BT.cummax(dim=1).values


def model_inputs(model: torch.nn.Module, inputs_BT: torch.Tensor, positions_BT: torch.Tensor | None) -> dict[str, Any]:
    """The arguments of a model's forward by name.

    With `positions_BT`, the places of tokens in their documents, attention stays inside documents. For most models
    positions that restart at 0 are enough, as they make their masks from them. Others (Falcon, OPT, GPT-OSS) ignore
    positions in their masks, but accept the masks that transformers makes from positions.

    Raises InputError where sequences are longer than the model's positions.
    """
    if positions_BT is None:
        check_room(model, inputs_BT.shape[1])
        return {"input_ids": inputs_BT}
    from transformers.masking_utils import create_masks_for_generate  # it imports the compiler, which takes seconds

    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    like_BT1 = torch.empty((*inputs_BT.shape, 1), dtype=weight.dtype, device=inputs_BT.device)  # for shape and type
    masks = create_masks_for_generate(model.config, like_BT1, None, None, position_ids=positions_BT)
    return {"input_ids": inputs_BT, "position_ids": positions_BT, "attention_mask": masks}


def check_documents_apart(model: torch.nn.Module, end_of_text: int, sequence_length: int, place: str) -> None:
    """Raise InputError unless a model computes the same for packed documents as for each of them alone.

    This is a trial, as a model may take no positions, or have layers that mix positions without attention. Attention
    may change at a length that the config names (the window or chunk of local attention, the original length of
    dynamic and longrope positions). Where sequences are longer than that, longer ones are tried too, on just enough
    blocks to have one of each kind.
    """
    title, remedy = type(model).__name__, "set train.attention to sequence"
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                apart = _keeps_apart(model, end_of_text, [_LENGTHS], _logits)
            except (TypeError, ValueError, RuntimeError):  # a model that takes no positions
                apart = False
            if not apart:
                raise InputError(place, f"{title} does not keep the documents of a sequence apart", remedy)
            for length in _turning_points(model, sequence_length):
                if not _keeps_apart_beyond(model, end_of_text, length, sequence_length):
                    raise InputError(
                        place,
                        f"{title} does not keep documents apart in sequences of more than {length:,} tokens",
                        f"{remedy}, or train.sequence_length to at most {length:,}",
                    )
    finally:
        model.train(training)


def _keeps_apart(
    model: Any, end_of_text: int, rows: list[tuple[int, ...]], outputs: "Callable[..., torch.Tensor]", last: int = 0
) -> bool:
    """Whether rows of documents of these lengths, all rows of one length, have the same outputs as each document alone.

    All tokens are compared, or only the `last` of each document. These are compared by the median of their differences,
    as rounding in a long text may send a few tokens to other experts.
    """
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    shape = (len(rows), sum(rows[0]))
    tokens = torch.randint(0, weight.shape[0], shape, generator=generator).to(weight.device)
    tokens[tokens == end_of_text] = (end_of_text + 1) % weight.shape[0]
    spans = []
    for number, lengths in enumerate(rows):
        ends = list(itertools.accumulate(lengths))
        tokens[number, [end - 1 for end in ends[:-1]]] = end_of_text
        spans += [(number, end - length, end) for length, end in zip(lengths, ends, strict=True)]
    packed = outputs(model, model_inputs(model, tokens, document_positions(tokens, end_of_text)))
    for number, begin, end in spans:
        alone = outputs(model, {"input_ids": tokens[number : number + 1, begin:end]})[0, -last:]
        inside = packed[number, begin:end][-last:]
        near = max(1e-5, 4 * torch.finfo(weight.dtype).eps) * alone[alone > _MASKED].abs().max()
        differences = torch.where(inside == alone, 0.0, inside - alone).abs().amax(dim=-1)  # -inf from itself is NaN
        if not bool((differences.median() if last else differences.max()) <= near):
            return False
    return True


def _keeps_apart_beyond(model: Any, end_of_text: int, length: int, sequence_length: int) -> bool:
    """`_keeps_apart` for a document longer than `length`, for two shorter ones of which the second ends beyond it, and
    for one that begins in the middle of a chunk of `length` and ends beyond it.

    A run judges several models of one config, so a trial that passed is not repeated in a process.
    """
    beyond = min(sequence_length - length, _BEYOND)
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    tried = type(model), json.dumps(fields, default=str, sort_keys=True), length, beyond
    if tried not in _PASSED and _try_beyond(model, end_of_text, length, beyond):
        _PASSED.add(tried)
    return tried in _PASSED


def _try_beyond(model: Any, end_of_text: int, length: int, beyond: int) -> bool:
    rows = [(length + beyond,), (beyond + 1, length - 1), (length // 2, length + beyond - length // 2)]
    last = min(beyond, _COMPARED)
    try:
        with _few_blocks(model):
            return _keeps_apart(model, end_of_text, rows, _hidden, last)
    except (IndexError, KeyError, AttributeError, TypeError, ValueError, RuntimeError):  # it needs all of its blocks
        return _keeps_apart(model, end_of_text, rows, _hidden, last)
    finally:  # dynamic positions remember the longest sequence until a short one comes
        _logits(model, {"input_ids": torch.zeros_like(model.get_input_embeddings().weight[:1, :1], dtype=torch.long)})


def _logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs, use_cache=False).logits.float()
    return logits


def _hidden(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The last hidden states, or the logits of a model without a separate head: those of long texts are large."""
    base = model.base_model
    if base is model:
        return _logits(model, inputs)
    hidden: torch.Tensor = base(**inputs, use_cache=False).last_hidden_state.float()
    return hidden


@contextmanager
def _few_blocks(model: Any) -> Iterator[None]:
    """Inside, a model has only the first of its blocks: as many as are needed to have one of each kind."""
    try:
        name = find_structure(model).blocks
    except InputError:
        yield
        return
    blocks = model.get_submodule(name)
    kinds = [_kind(block) for block in blocks]
    model.set_submodule(name, blocks[: max(kinds.index(kind) for kind in kinds) + 1])
    try:
        yield
    finally:
        model.set_submodule(name, blocks)


def _kind(block: torch.nn.Module) -> list[Any]:
    """The modules of a block and their settings; they are the same for blocks of one kind."""
    plain = (bool, int, float, str, type(None))
    parts: list[Any] = []
    for name, module in block.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
        parts.append((name, type(module), {key: settings[key] for key in settings if not POSITION.match(key)}))
    return parts


def _turning_points(model: Any, sequence_length: int) -> list[int]:
    """The lengths in a model's config that sequences exceed and at which attention may change."""
    lengths: set[int] = set()
    parameters = getattr(model.config, "rope_parameters", None) or {}
    ropes = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    kinds = {rope["rope_type"] for rope in ropes if "rope_type" in rope}
    own_code = not type(model).__module__.startswith("transformers.")
    names = _LOCAL if kinds <= _STEADY and not own_code else re.compile(f"{_LOCAL.pattern}|{_ORIGINAL.pattern}")

    def search(fields: dict[Any, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, dict) and not str(name).endswith("_config"):
                search(value)
            if not names.search(str(name)) or "layer" in str(name):  # max_window_layers counts blocks
                continue
            for length in value if isinstance(value, list) else [value]:
                if type(length) is int:
                    lengths.add(length - 1 if "floor" in str(name) else length)  # the first token that it divides

    search(model.config.to_dict())
    return sorted(length for length in lengths if sum(_LENGTHS) <= length < sequence_length)
