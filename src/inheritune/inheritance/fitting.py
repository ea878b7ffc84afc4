"""Closed-form refit: what is kept takes over, as far as least squares can, what was dropped: blocks, heads, neurons.

For each kept block in turn, the goal is the reference's hidden state just before the next kept block, at the hidden
channels that are kept. The last
matrices of its attention and its MLP are fitted to it, on the states that the target's own blocks before it give.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    assumed_head,
    block_modules,
    check_room,
    hidden_of,
    replaced_forwards,
    with_hidden,
)
from inheritune.data import IGNORED, Examples, Rows
from inheritune.errors import InputError, RunError
from inheritune.results import Refit
from inheritune.runlog import logger

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RIDGE = 0.3
"""How strongly a matrix is held to its present weights, as a share of the mean square of its inputs."""


def refit(
    target: "PreTrainedModel", reference: "PreTrainedModel", kept: Sequence[int], names: Sequence[Sequence[str]],
    rows: Rows, *, hidden: Sequence[int] | None = None, ridge: float = RIDGE, micro_batch: int = 8,
) -> Refit:  # fmt: skip
    """Refit the blocks of `target`, which are the reference's blocks `kept`, in place; returns a record of it.

    The target's blocks may be narrower; `hidden` are the reference's hidden channels that it has (None: all). `names`
    are those of `refitted_matrices`. Both models are in float32, in evaluation mode and on one device; `rows` are
    sequences of training text. A matrix W becomes the one with the smallest sum of weighted squared errors + ridge
    * (mean of the inputs' weighted sums of squares) * |W - present W|^2, computed from sums in float64. A token's
    weight is one over the norm of its goal. So the few with enormous states still count more than others: without them
    attention loses its sink, and the loss rises (docs/log.md). Memory: two hidden states for each token of `rows`, and
    the squared width of the MLP.

    Raises InputError for blocks that take more than the hidden states of the block before, and for hidden channels that
    are not the target's; RunError where a matrix gets values that are not finite.
    """
    import torch

    batches = [examples.to(reference.device) for _, examples in rows.batches(micro_batch)]
    check_room(reference, max(one.inputs.shape[1] for one in batches))
    began = time.monotonic()
    with torch.no_grad():
        _fit_in_turn(_Blocks(target), _Blocks(reference), kept, names, batches, hidden, ridge)
    done = Refit(matrices=sum(map(len, names)), sequences=len(rows), sequence_length=rows.sequence_length, ridge=ridge)
    seconds = time.monotonic() - began
    logger.info(f"refit: {done.matrices} matrices on {done.sequences} sequences in {seconds:.0f} s")
    return done


def _fit_in_turn(
    own: "_Blocks", source: "_Blocks", kept: Sequence[int], names: Sequence[Sequence[str]],
    batches: Sequence[Examples], hidden: Sequence[int] | None, ridge: float,
) -> None:  # fmt: skip
    """Fit block after block, each on the states that the fitted ones before it give."""
    ends = [*kept[1:], len(source.blocks)]
    goals, states = ([blocks.run(one, 0, 0, None) for one in batches] for blocks in (source, own))
    if states[0].shape[-1] != (goals[0].shape[-1] if hidden is None else len(hidden)):
        what = f"the target has {states[0].shape[-1]} hidden channels, which are not those that are named"
        raise InputError("refit", what, "give the reference's channels that it has, as `hidden`")
    for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        goals = [source.run(one, start, end, goal) for one, goal in zip(batches, goals, strict=True)]
        for number in range(len(names[place])):
            # The modules that follow are fitted too: they stand in for what their own fit will do.
            modules = [own.blocks[place].get_submodule(name) for name in names[place][number:]]
            sums = _Sums(modules)
            for one, state, whole in zip(batches, states, goals, strict=True):
                goal = whole if hidden is None else whole[..., hidden]
                with sums.watching():
                    output = own.run(one, place, place + 1, state)
                sums.add(output, goal, one.targets != IGNORED)
            sums.change_first(ridge, f"block {kept[place]}, {names[place][number]}")
        states = [own.run(one, place, place + 1, state) for one, state in zip(batches, states, strict=True)]


class _Blocks:
    """Runs some of a model's blocks inside the model's own forward, so that masks and positions are right."""

    def __init__(self, model: "PreTrainedModel") -> None:
        import torch

        self._base, self.blocks = assumed_head(model).base, block_modules(model)
        self._outputs: dict[int, Any] = {}  # what each block returns: hidden states alone, or in a tuple

        def keep(place: int, own: Any) -> Any:
            return lambda *args, **kwargs: self._outputs.setdefault(place, own(*args, **kwargs))

        with replaced_forwards(self.blocks, keep):
            self._base(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)

    def run(self, examples: Examples, start: int, stop: int, hidden: "torch.Tensor | None") -> "torch.Tensor":
        """The input (B, T, D) of block `stop`, or the last output, given the input `hidden` of block `start`.

        Block 0 takes the embeddings. Blocks before `start` return `hidden`, those from `stop` on their input.
        """
        import torch

        reached: list[torch.Tensor] = []

        def new(place: int, own: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                before = hidden_of(args, kwargs)
                if place < start:
                    assert hidden is not None
                    return with_hidden(self._outputs[place], hidden)
                if place == start and hidden is not None and start and not torch.equal(before, hidden):
                    what = f"the input of block {place} is not the output of the block before it"
                    raise InputError("refit", what, "inherit without the refit")
                output = own(*args, **kwargs) if place < stop else with_hidden(self._outputs[place], before)
                if place == max(stop - 1, 0):
                    reached.append(hidden_of(output))
                return output

            return run

        with replaced_forwards(self.blocks, new):
            self._base(input_ids=examples.inputs, use_cache=False)
        return reached[0]


class _Sums:
    """The normal equations of the output matrices of a block, for the change of their weights."""

    def __init__(self, modules: "Sequence[torch.nn.Module]") -> None:
        self._modules = list(modules)
        self._inputs: dict[torch.nn.Module, torch.Tensor] = {}
        self._products: Any = 0  # (K, K): inputs with inputs; K are the widths of all modules, one after the other
        self._errors: Any = 0  # (K, D): inputs with what is missing to the goal

    def watching(self) -> ExitStack:
        """Inside, the modules' inputs are kept for `add`."""

        def keep(module: "torch.nn.Module", args: Any) -> None:
            self._inputs[module] = args[0]

        hooks = ExitStack()
        for module in self._modules:
            hooks.callback(module.register_forward_pre_hook(keep).remove)
        return hooks

    def add(self, output: "torch.Tensor", goal: "torch.Tensor", counted: "torch.Tensor") -> None:
        """Add tokens: a block's output and goal (B, T, D), and which tokens count (B, T)."""
        import torch

        parts = []
        for module in self._modules:
            inputs = self._inputs[module].reshape(*counted.shape, -1)
            parts.append(inputs if module.bias is None else torch.nn.functional.pad(inputs, (0, 1), value=1.0))
        roots_N1 = goal[counted].double().norm(dim=1, keepdim=True).clamp(min=1e-30).rsqrt()
        inputs_NK = torch.cat(parts, -1)[counted].double() * roots_N1
        errors_ND = (goal - output)[counted].double() * roots_N1
        self._products = self._products + inputs_NK.T @ inputs_NK
        self._errors = self._errors + inputs_NK.T @ errors_ND

    def change_first(self, ridge: float, place: str) -> None:
        """Change the first module's weight and bias. Raises RunError for values that are not finite."""
        import torch
        from transformers.pytorch_utils import Conv1D

        diagonal = self._products.diagonal()
        sizes = []
        for module in self._modules:
            assert isinstance(module.weight, torch.Tensor)
            width = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
            sizes.append(width + (module.bias is not None))
        scales = torch.cat([part.mean().expand(len(part)) for part in diagonal.split(sizes)])
        held = self._products + ridge * torch.diag(scales)
        change_KD, fault = torch.linalg.solve_ex(held, self._errors)
        change_KD = change_KD[: sizes[0]]
        if fault or not bool(change_KD.isfinite().all()):
            raise RunError(f"refit: {place}", "the fitted weights are not finite", "give more text, or a larger ridge")
        first: Any = self._modules[0]
        if first.bias is not None:
            first.bias += change_KD[-1].to(first.bias.dtype)
            change_KD = change_KD[:-1]
        first.weight += (change_KD if isinstance(first, Conv1D) else change_KD.T).to(first.weight.dtype)
