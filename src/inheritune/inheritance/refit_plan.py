"""Before a refit of kept blocks: which of their matrices it changes, and the text that it looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.arch import build_skeleton, check_tokenizer_fits, find_output_matrices, find_structure, position_count
from inheritune.corpus import sample_text
from inheritune.data import Rows
from inheritune.errors import InputError
from inheritune.inheritance.target import PlannedTarget
from inheritune.recipe import Size

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_LENGTH = 256  # tokens a sequence: enough for attention to work as usual


@dataclass(frozen=True)
class CalibrationText:
    """What a refit looks at: text, how many tokens of it, and whether sequences begin with the tokenizer's prefix."""

    paths: Sequence[str | Path]
    tokens: Size
    prefix: str = "auto"

    def rows(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Rows:
        """Sequences for this model. Raises InputError without a tokenizer, and for text that cannot be read."""
        if tokenizer is None:
            raise InputError("refit", "a loaded model comes without a tokenizer", "give the tokenizer")
        check_tokenizer_fits(tokenizer, model.config, "refit")
        length = refit_length(model.config)
        count = max(1, self.tokens.count // length)
        return sample_text(self.paths, tokenizer, count, length, or_fewer=True, prefix=self.prefix)


def refit_length(config: "PretrainedConfig") -> int:
    """The tokens of a sequence that a refit looks at."""
    return min(_LENGTH, position_count(config) or _LENGTH)


def check_can_be_refitted(reference: "PreTrainedModel", blocks: Sequence[int]) -> None:
    """Raise InputError where the first of these blocks cannot be refitted, before anything is computed."""
    skeleton = build_skeleton(reference.config, reference.is_remote_code())
    find_output_matrices(skeleton, find_structure(skeleton), blocks[0])


def refitted_matrices(planned: PlannedTarget) -> list[list[str]]:
    """The modules that a refit changes: for each block of the target, names in the block, in the order of fitting.

    Where the blocks keep their width, those before the first dropped one have none, as their input and their goal are
    the reference's.

    Raises InputError for random weights, for blocks that repeat, and for an architecture whose blocks
    cannot be refitted (see `find_output_matrices`).
    """
    kept, total, remedy = list(planned.plan.kept), planned.plan.total, "inherit without the refit"
    if planned.plan.fresh:
        raise InputError("refit", "it takes blocks with all their weights", f"inherit all of them, or {remedy}")
    if kept != sorted(set(kept)):
        raise InputError("refit", f"blocks {kept} repeat or are not in order, so they have no goals", remedy)
    skeleton = build_skeleton(planned.target.config, planned.target.is_remote_code())
    structure, names = find_structure(skeleton), []
    narrower = any(line.indices is not None and structure.split(line.target) for line in planned.plan.lines)
    for place in range(len(kept)):
        same = not narrower and [*kept, total][: place + 2] == list(range(place + 2))
        roles = {} if same else find_output_matrices(skeleton, structure, place)
        names.append([roles[role] for role in ("attention", "mlp") if role in roles])
    return names
