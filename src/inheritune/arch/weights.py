"""A checkpoint's stored tensors, by their names in its files: which of them a target takes. Nothing is read.

Stored names may differ from the modules' (GPT-2's files lack `transformer.`; Mixtral's store experts one by one, which
the module holds fused). transformers' loader decides what a stored name becomes.
"""

import contextlib
import logging
import logging.handlers
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from inheritune.arch.selection import Runs, joined, length, lengths
from inheritune.arch.stored import FLOATS, StoredTensor, StoredWeights
from inheritune.arch.structure import Structure, tensor_shapes
from inheritune.arch.unused import CAUSAL_MASK, block_beyond, is_spare, left_over, refuse_left_over
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_STACKED, _SIDE_BY_SIDE = "MergeModulelist", "Concatenate"
_EXPERT = re.compile(r"(?<=\bexperts\.)\d+(?=\.)")  # of experts that are stored one by one
_REMEDY = "get a checkpoint whose weights fit its config"


class Names:
    """What transformers' loader makes of a stored name, for the model `skeleton`."""

    def __init__(self, skeleton: "PreTrainedModel") -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        entries = get_model_conversion_mapping(skeleton)
        self.skeleton = skeleton
        self.own = skeleton.state_dict()
        self._targets: dict[str, tuple[str, list[Any]]] = {}
        self._prefix = skeleton.base_model_prefix
        self._renamings = [entry for entry in entries if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in entries if isinstance(entry, WeightConverter)]

    def fit(self, tensors: Mapping[str, StoredTensor], fresh: frozenset[str]) -> bool:
        """Whether each stored tensor is one of the model's as it is, and only `fresh` ones of the model are missing."""
        filled = {self.of(stored): tensor.shape for stored, tensor in tensors.items()}
        if self._converters or len(filled) < len(tensors):
            return False
        needed = self.own.keys() - fresh - getattr(self.skeleton, "all_tied_weights_keys", {}).keys()
        own = tensor_shapes(self.skeleton)
        return needed <= filled.keys() and all(own.get(name, shape) == shape for name, shape in filled.items())

    def of(self, stored: str) -> str:
        """The tensor of the model that a stored one fills (the first of several); another name where it fills none."""
        return self._lookup(stored)[0]

    def part(self, stored: StoredTensor, indices: tuple[Runs, ...]) -> tuple[Runs, ...] | None:
        """The indices of a stored tensor that are `indices` of the model's tensor; None where that is not known.

        Known are tensors stored as they are, and those that are stacked and put side by side (experts one by one)
        where the same is taken of each. Which experts are taken, `expert` tells.
        """
        name, operations = self._lookup(stored.name)
        shape = tuple(self.own[name].shape)
        if not operations:
            return indices if stored.shape == shape else None
        if any(type(operation).__name__ not in (_STACKED, _SIDE_BY_SIDE) for operation in operations):
            return None
        known = indices[0] == ((0, shape[0]),) or self.expert(stored.name) is not None
        if len(shape) == len(stored.shape) + 1 and known:
            shape, indices = shape[1:], indices[1:]
        if len(shape) != len(stored.shape):
            return None
        common = [_common(runs, *sizes) for runs, *sizes in zip(indices, stored.shape, shape, strict=True)]
        return None if None in common else tuple(runs for runs in common if runs is not None)

    def expert(self, stored: str) -> int | None:
        """The place in the model's tensor where a stored expert is stacked; None for other tensors."""
        stacked = any(type(operation).__name__ == _STACKED for operation in self._lookup(stored)[1])
        found = _EXPERT.search(stored) if stacked else None
        return None if found is None else int(found[0])

    def _lookup(self, stored: str) -> tuple[str, list[Any]]:
        from transformers.core_model_loading import rename_source_key

        if stored not in self._targets:
            renamed, pattern = rename_source_key(stored, self._renamings, self._converters, self._prefix, self.own)
            used = [entry for entry in self._converters if pattern in entry.source_patterns]
            name = stored if renamed not in self.own and stored in self.own else str(renamed)
            self._targets[stored] = name, [operation for entry in used for operation in entry.operations]
        return self._targets[stored]


def _common(runs: Runs, size: int, whole: int) -> Runs | None:
    """The part that indices of a dimension of `whole` take of each of its pieces of `size`; None where it differs."""
    if whole % size:
        return None
    pieces = {
        joined((max(start - first, 0), min(stop - first, size)) for start, stop in runs if start < first + size)
        for first in range(0, whole, size)
    }
    each = pieces.pop()
    return None if pieces or length(each) * (whole // size) != length(runs) else each


@dataclass(frozen=True)
class Placement:
    """Which stored tensors a target takes, under the names that they have in its own checkpoint."""

    weights: StoredWeights
    names: Mapping[str, str]
    """The target's stored name to the reference's."""
    indices: Mapping[str, tuple[Runs, ...]] = field(default_factory=dict)
    """For tensors of which a part is taken: the indices along each dimension."""

    def tensor(self, name: str) -> StoredTensor:
        """The reference's stored tensor that the target stores as `name`."""
        return self.weights.tensors[self.names[name]]

    def tensors(self) -> dict[str, StoredTensor]:
        """The stored tensors by the target's names, in the target's shapes."""
        whole = {name: self.tensor(name) for name in self.names}
        return whole | {name: replace(whole[name], shape=lengths(part)) for name, part in self.indices.items()}

    @property
    def is_plain(self) -> bool:
        """Whether the bytes in the files are the tensors', so that they can be copied without being read."""
        return all(self.tensor(name).factors is None for name in self.names)

    @contextlib.contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """Lazy slices by the target's stored names; plain reads, so that memory holds only what is asked for."""
        from safetensors import safe_open

        with contextlib.ExitStack() as stack:
            tensors = {name: self.tensor(name) for name in self.names}
            factors = [tensor.factors for tensor in tensors.values() if tensor.factors is not None]
            files = {
                file: stack.enter_context(safe_open(str(file), framework="pt", backend="pread"))
                for file in {tensor.file for tensor in [*tensors.values(), *factors]}
            }
            yield {name: tensor.lazy(files, self.indices.get(name)) for name, tensor in tensors.items()}


def place_tensors(
    weights: StoredWeights,
    before: Names,
    target: "PreTrainedModel",
    wanted: Mapping[str, tuple[str, ...]],
    indices: Mapping[str, tuple[Runs, ...]],
) -> Placement | None:
    """Find the stored tensors for a target, and their names in a checkpoint of its own.

    `before` knows the source's names, `target` is without weights; `wanted` maps the source's tensors to the target's
    that are made from them, `indices` the target's tensors to the part of their source that is taken. A tied tensor is
    stored once. None where it is not known what of a stored tensor such a part is; raises InputError where a stored
    name does not show its block.
    """
    after = Names(target)
    modules = {stored: before.of(stored) for stored in weights.tensors}
    tied, present = getattr(before.skeleton, "all_tied_weights_keys", {}), set(modules.values())
    names: dict[str, str] = {}
    parts: dict[str, tuple[Runs, ...]] = {}
    for stored, module in modules.items():
        original = tied.get(module)
        if original in present:
            continue
        for goal in wanted.get(module if original is None else original, ()):
            name = _renamed(stored, module, goal if original is None else module, after, weights.place)
            expert = before.expert(stored)
            if goal in indices and expert is not None:
                taken = [number for start, stop in indices[goal][0] for number in range(start, stop)]
                if expert not in taken:
                    continue
                name = _EXPERT.sub(str(taken.index(expert)), name)
            names[name] = stored
            if goal in indices:
                part = before.part(weights.tensors[stored], indices[goal])
                if part is None:
                    return None
                parts[name] = part
    return Placement(weights, names, parts)


def _renamed(stored: str, module: str, goal: str, names: Names, place: str) -> str:
    """The name under which the target stores what fills its tensor `goal`: one of the numbers in `stored` replaced."""
    if goal == module:
        return stored
    numbers = list(re.finditer(r"(?<![^.])(\d+)(?=\.)", stored))
    ours, theirs = (re.findall(r"(?<![^.])\d+(?=\.)", name) for name in (goal, module))
    if [match[1] for match in numbers] == theirs and len(ours) == len(theirs):
        new = iter(ours)
        tried = re.sub(r"(?<![^.])\d+(?=\.)", lambda _: next(new), stored)
        if names.of(tried) == goal:
            return tried
    shift = next((int(new) - int(old) for new, old in zip(ours, theirs, strict=False) if new != old), 0)
    for match in numbers:
        tried = f"{stored[: match.start()]}{int(match[1]) + shift}{stored[match.end() :]}"
        if names.of(tried) == goal:
            return tried
    what = f"the stored name {stored} does not show which block it belongs to ({module})"
    raise InputError(place, what, "load the model with transformers and inherit from it in Python")


def check_fits(
    names: Names, tensors: Mapping[str, StoredTensor], place: str, fresh: frozenset[str] = frozenset()
) -> None:
    """Run transformers' own loading with shapes alone, so that misfits are found before anything is read.

    `names` knows the model that is to be filled; `tensors` are stored tensors by name; `fresh` are the model's tensors
    that need not be among them. Raises InputError for tensors that are missing, of another shape, cannot be converted,
    or belong to blocks beyond the config's.
    """
    import torch

    if names.fit(tensors, fresh):
        return
    skeleton = names.skeleton
    empty = {
        name: _Shape(tensor.shape, getattr(torch, FLOATS.get(tensor.dtype, "uint8")))
        for name, tensor in tensors.items()
    }
    with _logged() as records:
        try:
            _, info = type(skeleton).from_pretrained(
                None,
                config=skeleton.config,
                state_dict=empty,
                dtype=skeleton.dtype,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
            )
        except RuntimeError as error:
            lines = [line for record in records for line in record.getMessage().split("\n")]
            first = next((line for line in lines if "tensors destined for" in line), str(error).split("\n")[0])
            first = first.removeprefix("Error: ")
            raise InputError(place, f"stored tensors cannot be put together: {first}", _REMEDY) from None
    shaped = sorted((name, tuple(got), tuple(legal)) for name, got, legal in info["mismatched_keys"])
    if shaped:
        name, got, legal = shaped[0]
        raise InputError(
            f"{place}: {name}", f"{len(shaped)} mismatched tensors: stored as {got}, the config says {legal}", _REMEDY
        )
    missing = sorted(set(info["missing_keys"]) - fresh)
    if missing:
        raise InputError(place, f"{len(missing)} missing tensors ({', '.join(missing[:3])} ...)", _REMEDY)


@dataclass(frozen=True)
class _Shape:
    """A tensor without content, on whichever device, that transformers' loader accepts as one in a file."""

    shape: tuple[int, ...]
    dtype: "torch.dtype"

    def __getitem__(self, _: Any) -> "_Shape":
        return self

    def to(self, device: Any = None, dtype: Any = None) -> "torch.Tensor":
        import torch

        return torch.empty(self.shape, dtype=dtype or self.dtype, device="meta")


@contextlib.contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """What transformers' loader logs: for a conversion that fails, only the log names the tensor."""
    logger, handler = logging.getLogger("transformers.modeling_utils"), logging.handlers.BufferingHandler(10**6)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def check_stored(weights: StoredWeights, names: Names, structure: Structure) -> None:
    """Raise InputError where the files cannot belong to the model: shapes, blocks beyond the config's, mixed dtypes.

    Only the names of tensors in files that were not fetched are checked.
    """
    skeleton = names.skeleton
    modules = {stored: names.of(stored) for stored in weights.tensors}
    away = {stored: names.of(stored) for stored in weights.elsewhere}
    unread = frozenset(away.values())  # experts stored one by one may be here in part
    check_nothing_left(weights, names, structure)
    _check_depth(modules | away, skeleton, structure, weights.place)
    at_hand = {stored: tensor for stored, tensor in weights.tensors.items() if modules[stored] not in unread}
    check_fits(names, at_hand, weights.place, unread)
    _check_dtypes(weights, names, modules, structure)
    _check_ties(weights, modules, skeleton)


def check_nothing_left(weights: StoredWeights, names: Names, structure: Structure) -> None:
    """Raise InputError for a stored tensor without a place in the model, unless it is known to be harmless.

    transformers ignores such tensors with a warning, and the model computes something else than the trained one. See
    `arch.unused` for harmless ones.
    """
    model, unplaced = names.skeleton, []
    for stored in (*weights.tensors, *weights.elsewhere):
        module = names.of(stored)
        if module not in names.own and block_beyond(module, model, structure) is None:
            unplaced.append(stored if stored in weights.elsewhere else module)
    tensors = {names.of(stored): tensor for stored, tensor in weights.tensors.items()}
    vectors = {name for name, tensor in tensors.items() if len(tensor.shape) == 1 and tensor.shape[0] > 1}
    biases = [name for name in unplaced if re.search(CAUSAL_MASK, name) and name in vectors]
    quantised = any(tensor.factors is not None for tensor in weights.tensors.values())
    unused = left_over(unplaced, model, structure, quantised=quantised, composite=weights.is_text_part)
    unused += left_over(weights.dropped, model, structure, quantised=True, composite=True)
    refuse_left_over(weights.place, [tensors[name].name if name in tensors else name for name in biases + unused])


def _check_depth(modules: Mapping[str, str], skeleton: "PreTrainedModel", structure: Structure, place: str) -> None:
    """Raise InputError for blocks in the files that the config does not count, unless the architecture ignores them."""
    ignored = list(skeleton._keys_to_ignore_on_load_unexpected or ())
    for stored, module in modules.items():
        block = block_beyond(module, skeleton, structure)
        names = (module, f"{skeleton.base_model_prefix}.{module}")
        if block is None or is_spare(module, skeleton, structure):
            continue
        if not any(re.search(pattern, name) for pattern in ignored for name in names):
            what = f"a tensor of block {block} (from 0), but the config says {structure.count} blocks"
            raise InputError(f"{place}: {stored}", what, _REMEDY)


def _check_dtypes(weights: StoredWeights, names: Names, modules: Mapping[str, str], structure: Structure) -> None:
    """Raise InputError for integers in place of floats, for a tensor with different dtypes in several blocks, and for a
    mixture of float16 and bfloat16.
    """
    usual: dict[str, StoredTensor] = {}
    halves: dict[str, StoredTensor] = {}
    for stored, module in modules.items():
        tensor, where = weights.tensors[stored], structure.split(module)
        if module not in names.own:
            continue
        if names.own[module].is_floating_point() and tensor.dtype not in FLOATS:
            what = f"is {tensor.dtype}, where floating-point numbers belong"
            raise InputError(f"{tensor.file}: {stored}", what, _REMEDY)
        if tensor.dtype in ("F16", "BF16"):
            halves.setdefault(tensor.dtype, tensor)
        other = tensor if where is None else usual.setdefault(where[1], tensor)
        if tensor.dtype != other.dtype:
            what = f"is {tensor.dtype}, but the same tensor of another block ({other.name}) is {other.dtype}"
            raise InputError(f"{tensor.file}: {stored}", what, "get the file again: it belongs to another checkpoint")
    if len(halves) > 1:
        left, right = halves["F16"], halves["BF16"]
        what = f"is F16, but {right.name} is BF16, which one checkpoint does not mix"
        raise InputError(f"{left.file}: {left.name}", what, "get the file again: it belongs to another checkpoint")


def _check_ties(weights: StoredWeights, modules: Mapping[str, str], skeleton: "PreTrainedModel") -> None:
    """Where a tied tensor is stored twice, both must be the same, or the config is wrong about the tie."""
    by_module = {module: stored for stored, module in modules.items()}
    for alias, original in getattr(skeleton, "all_tied_weights_keys", {}).items():
        if alias not in by_module or original not in by_module:
            continue
        second, first = (weights.tensors[by_module[name]] for name in (alias, original))
        if not second.equals(first):
            raise InputError(
                f"{weights.place}: {second.name}",
                f"differs from {first.name}, though the config ties the two",
                "set tie_word_embeddings to false in its config.json",
            )
