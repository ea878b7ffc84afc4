"""Hooks that sum up what passes through a model's matrices, norms, routers and blocks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from inheritune.arch import UnitMatrix, hidden_of
from inheritune.data import IGNORED, Examples
from inheritune.errors import InputError

Matrices = dict[tuple[int, str], tuple[Any, UnitMatrix]]
"""The linear modules behind units, by block and axis."""


@dataclass
class InputSums:
    """Sums over tokens of what goes into a matrix (K numbers): products of two of them, and absolute values.

    A token's weight is one over the norm of the hidden state that its block returns, as in the refit.
    """

    products_KK: Any = 0
    absolute_K: Any = 0

    def add(self, inputs_NK: torch.Tensor, weights_N1: torch.Tensor) -> None:
        """Add tokens. Products within a batch are float32, sums over batches float64."""
        scaled_NK = inputs_NK * weights_N1.sqrt()
        self.products_KK = self.products_KK + (scaled_NK.T @ scaled_NK).double()
        self.absolute_K = self.absolute_K + (inputs_NK.abs() * weights_N1).sum(0).double()


@dataclass
class Routing:
    """How many tokens are sent to each of E experts, and the sums of the weights with which they are."""

    counts_E: torch.Tensor
    weights_E: torch.Tensor


class Watch:
    """Sums over the batches of a pass. Each batch runs inside `batch`."""

    def __init__(
        self, blocks: Sequence[nn.Module], matrices: Matrices, norms: Mapping[str, nn.Module], routed: Collection[int],
        *, streams: bool,
    ) -> None:  # fmt: skip
        self._blocks, self._matrices, self._norms, self._routed = blocks, matrices, norms, routed
        self._streams = streams
        self._caught: dict[tuple[int, str], torch.Tensor] = {}
        self._counts_BT = torch.zeros(0)
        self.counted = 0
        self.inputs: dict[tuple[int, str], InputSums] = {}
        self.routing: dict[int, Routing] = {}
        self.products_DD: Any = 0
        self.absolute_D: Any = 0
        self.shares: dict[str, Any] = {}

    @contextmanager
    def batch(self, examples: Examples) -> Iterator[None]:
        """Inside, a forward of these examples is added."""
        self._counts_BT = examples.targets != IGNORED
        self.counted += int(self._counts_BT.sum())
        with ExitStack() as hooks:
            for key, (module, _) in self._matrices.items():
                hooks.callback(module.register_forward_pre_hook(partial(self._keep, key)).remove)
            for name, norm in self._norms.items():
                hooks.callback(norm.register_forward_pre_hook(partial(self._share, name)).remove)
            for number in self._routed:
                for module in self._blocks[number].modules():
                    see = partial(self._route, number)
                    hooks.callback(module.register_forward_pre_hook(see, with_kwargs=True).remove)
            for number, block in enumerate(self._blocks):
                hooks.callback(block.register_forward_hook(partial(self._end, number), with_kwargs=True).remove)
            yield

    def _tokens(self, values: torch.Tensor) -> torch.Tensor:
        """The tokens that count, (N, ...)."""
        return values.reshape(*self._counts_BT.shape, -1)[self._counts_BT].float()

    def _keep(self, key: tuple[int, str], module: Any, args: Any) -> None:
        self._caught[key] = self._tokens(args[0])

    def _share(self, name: str, module: Any, args: Any) -> None:
        shares_ND = nn.functional.normalize(self._tokens(args[0]), dim=1).square()
        self.shares[name] = self.shares.get(name, 0) + shares_ND.sum(0).double()

    def _end(self, number: int, block: Any, args: Any, kwargs: Any, output: Any) -> None:
        after = hidden_of(output)
        if after.shape[:-1] != self._counts_BT.shape:
            what = f"block {number} returns several hidden states for each token"
            raise InputError("units", what, "select units of this architecture by index")
        after_ND = self._tokens(after)
        weights_N1 = after_ND.norm(dim=1, keepdim=True).clamp(min=1e-30).reciprocal()
        for key in [key for key in self._caught if key[0] == number]:
            self.inputs.setdefault(key, InputSums()).add(self._caught.pop(key), weights_N1)
        if self._streams:
            for state_ND in [self._tokens(hidden_of(args, kwargs)), after_ND][number > 0 :]:
                unit_ND = nn.functional.normalize(state_ND, dim=1)
                self.products_DD = self.products_DD + (unit_ND.T @ unit_ND).double()
                self.absolute_D = self.absolute_D + unit_ND.abs().sum(0).double()

    def _route(self, number: int, module: Any, args: Any, kwargs: Any) -> None:
        """See what a module of experts is given: for each token the numbers of its experts and their weights (N, k)."""
        given = [one for one in (*args, *kwargs.values()) if torch.is_tensor(one) and one.dim() == 2]
        chosen = [one for one in given if not one.is_floating_point() and len(one) == self._counts_BT.numel()]
        weights = [one for one in given if one.is_floating_point() and chosen and one.shape == chosen[0].shape]
        if not weights:
            return
        held = next((len(tensor) for tensor in module.parameters(recurse=False)), len(list(module.children())))
        empty_E, counts_N = torch.zeros(held, dtype=torch.float64), self._counts_BT.flatten()
        taken, shares = (one[counts_N].flatten().cpu() for one in (chosen[0], weights[0]))
        own = self.routing.setdefault(number, Routing(empty_E, empty_E))
        own.counts_E = own.counts_E + torch.bincount(taken, minlength=held)
        own.weights_E = own.weights_E + empty_E.index_add(0, taken, shares.double())
