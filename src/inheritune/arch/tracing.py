"""A forward of a decoder without weights, and what it shows about a block's output.

The model runs on the meta device, where tensors have shapes and no values. For each result of an operation in the
block, rules derive which values of the block's own parameters make it all zeros, or equal to the block's input. An
unknown operation proves nothing, so its block is refused.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inheritune.arch.patching import Forward, hidden_of, replaced_forwards

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Constants = Mapping[str, float]  # parameter of the block -> the one value that all its entries get


@dataclass(frozen=True)
class Fact:
    """Which constants make a tensor `zero`, and which make it the `same` as the block's input; None: none are known.

    `own` is the name and offset of a tensor that is a parameter plus a constant.
    """

    zero: Constants | None = None
    same: Constants | None = None
    own: tuple[str, float] | None = None

    @property
    def one(self) -> Constants | None:
        """The constants that make every entry one."""
        return None if self.own is None else {self.own[0]: 1.0 - self.own[1]}


_NOTHING = Fact()
_ZEROS = Fact(zero={})
_Facts = Callable[[Any], Fact]


def _both(left: Constants | None, right: Constants | None) -> Constants | None:
    """Constants that have both effects, if no parameter would need two values."""
    if left is None or right is None or any(right.get(name, value) != value for name, value in left.items()):
        return None
    return {**left, **right}


def _zeroed(*factors: Fact, by_parameter: bool) -> Constants | None:
    """How a product becomes zero: by one factor. With two zero factors, neither would ever get a gradient.

    A matrix product is zeroed by the factor that is a parameter, if there is one. An elementwise product is zeroed by
    what is scaled rather than by a scale that is a parameter: by a projection rather than by the gain of a norm after
    it. Its gradient is then large (1 / sqrt(eps)), which clipping and warm-up handle. A gain that starts at zero moves
    by the learning rate a step, and learned more slowly than a block whose output was not zeroed at all.
    """
    preferred = sorted(factors, key=lambda fact: (fact.own is None) == by_parameter)
    return next((fact.zero for fact in preferred if fact.zero is not None), None)


def _add(facts: _Facts, left: Any, right: Any, alpha: Any = 1) -> Fact:
    a, b = facts(left), facts(right)
    if isinstance(right, int | float) and a.own is not None:
        name, offset = a.own[0], a.own[1] + right * alpha
        return Fact(zero=None if a.zero is None else {name: -offset}, own=(name, offset))
    same = _both(a.same, b.zero)
    if same is None and alpha == 1:
        same = _both(a.zero, b.same)
    return Fact(zero=_both(a.zero, b.zero), same=same)


def _mul(facts: _Facts, left: Any, right: Any) -> Fact:
    a, b = facts(left), facts(right)
    if left is right:  # a square can be zero, but then no gradient ever changes it
        return _NOTHING
    same = _both(a.same, {} if right == 1 else b.one) if not torch.is_tensor(right) else _both(a.same, b.one)
    if same is None:
        same = _both(b.same, a.one)
    return Fact(zero=_zeroed(a, b, by_parameter=False), same=same)


def _divide(facts: _Facts, left: Any, right: Any, **_: Any) -> Fact:
    a = facts(left)
    harmless = {} if not torch.is_tensor(right) and right == 1 else facts(right).one
    return Fact(zero=a.zero, same=_both(a.same, harmless))


def _product(facts: _Facts, left: Any, right: Any, *_: Any, **__: Any) -> Fact:
    return Fact(zero=_zeroed(facts(right), facts(left), by_parameter=True))


def _affine(facts: _Facts, bias: Any, left: Any, right: Any, *_: Any, **__: Any) -> Fact:
    return Fact(zero=_both(_product(facts, left, right).zero, facts(bias).zero))


def _scaled(facts: _Facts, given: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Fact:
    """A convolution, or what follows the division in a norm."""
    zero = facts(given).zero if weight is None else _zeroed(facts(given), facts(weight), by_parameter=False)
    return Fact(zero=zero if bias is None else _both(zero, facts(bias).zero))


def _moved(facts: _Facts, given: Any, *_: Any, **__: Any) -> Fact:
    """Entries in other places, or some of them: a parameter remains one."""
    fact = facts(given)
    return Fact(zero=fact.zero, own=fact.own)


def _joined(facts: _Facts, parts: Any, *_: Any, **__: Any) -> Fact:
    nothing: Constants | None = {}
    return Fact(zero=functools.reduce(_both, (facts(part).zero for part in parts), nothing))


def _where_all(*places: int) -> Callable[..., Fact]:
    """The result is zero where the arguments at these places are."""
    return lambda facts, *given, **_: _joined(facts, [given[place] for place in places])


def _padded(facts: _Facts, given: Any, _: Any, value: Any = 0) -> Fact:
    return Fact(zero=facts(given).zero if value == 0 else None)


def _copied(facts: _Facts, target: Any, source: Any, *_: Any) -> Fact:
    fact = facts(source)
    return Fact(zero=fact.zero, same=fact.same if target.shape == source.shape else None)


# By the name of the operation. relu and powers are missing on purpose: they keep zero and pass no gradient there.
_RULES: dict[str, Callable[..., Fact]] = {
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "detach", "clone", "lift_fresh",
         "_to_copy"),
        lambda facts, given, *_, **__: facts(given),
    ),
    **dict.fromkeys(("t", "transpose", "permute", "index", "index_select", "select", "expand"), _moved),
    **dict.fromkeys(
        ("slice", "split", "split_with_sizes", "unbind", "gather", "repeat", "flip", "roll", "neg", "sum", "mean",
         "cumsum", "silu", "gelu", "tanh", "native_dropout"),
        _where_all(0),
    ),
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros", "zero"), lambda *_, **__: _ZEROS),
    **dict.fromkeys(("mm", "bmm", "_grouped_mm", "grouped_mm_fallback", "mv", "dot"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _affine),
    **dict.fromkeys(("full", "full_like", "new_full"), lambda facts, _, value, *__, **___: facts(value)),
    **dict.fromkeys(("index_add", "scatter_add", "scatter"), _where_all(0, 3)),
    **dict.fromkeys(("index_put", "masked_fill"), _where_all(0, 2)),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(
        ("native_layer_norm", "_fused_rms_norm"), lambda facts, given, _, *rest, **__: _scaled(facts, given, *rest)
    ),
    "add": _add,
    "constant_pad_nd": _padded,
    "convolution": _scaled,
    "copy": _copied,
    "div": _divide,
    "mul": _mul,
    "where": _where_all(1, 2),
}  # fmt: skip


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows facts through every operation while `block` runs; elsewhere supplies values that meta tensors lack."""

    def __init__(self, block: nn.Module, shared: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._block, self._inside = block, False
        self._facts: dict[int, tuple[torch.Tensor, Fact]] = {}  # holds the tensors, so that no id is used twice
        self._stream: torch.Tensor | None = None
        self._makers: dict[int, str] = {}
        self._made: set[int] = set()
        self._kept: list[torch.Tensor] = []  # so that no address is used twice
        self._left = False
        self.output: torch.Tensor | None = None
        self.made_by = "nothing"
        self.hands_on_more = False
        for name, parameter in block.named_parameters():
            if id(parameter) not in shared:
                self._facts[id(parameter)] = (parameter, Fact(zero={name: 0.0}, own=(name, 0.0)))
        stored = block.state_dict().keys()
        for name, buffer in block.named_buffers():
            if name in stored and buffer.is_floating_point():  # never trained, so it may not zero a branch
                self._facts[id(buffer)] = (buffer, Fact(own=(name, 0.0)))

    def fact(self, value: Any) -> Fact:
        """What is known of a tensor or a number."""
        if torch.is_tensor(value):
            return self._facts.get(id(value), (value, _NOTHING))[1]
        return _ZEROS if isinstance(value, int | float) and value == 0 else _NOTHING

    def enter_block(self, stream: torch.Tensor, is_zero: bool = False) -> None:
        """Start to follow operations; `stream` is the block's input. `is_zero`: as if it were zero."""
        self._inside, self._stream = True, stream
        self._facts[id(stream)] = (stream, _ZEROS if is_zero else Fact(same={}))

    def enter_branch(self, output: torch.Tensor) -> None:
        """From now on `same` means: the same as `output`, which a module of the block has just returned."""
        for key, (tensor, fact) in list(self._facts.items()):
            self._facts[key] = (tensor, Fact(zero=fact.zero, own=fact.own))
        self._facts[id(output)] = (output, Fact(same={}))

    def leave_block(self, output: Any) -> None:
        """Stop following; from now on note uses of any other tensor that the block made."""
        self._inside = False
        self.output = hidden_of(output)
        self.made_by = self._makers.get(id(self.output), "nothing")
        self._made.discard(_memory(self.output))
        self._left = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = [_memory(tensor) for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)]
        self.hands_on_more |= self._left and not self._made.isdisjoint(given)
        result = _without_values(func, args, kwargs, outside=not self._inside)
        if self._inside:
            made = [tensor for tensor in tree_leaves(result) if torch.is_tensor(tensor)]
            self._kept += made
            self._made |= {_memory(tensor) for tensor in made}.difference(given)
            self._follow(name, func._schema.is_mutable, args, kwargs, result)
        return result

    def _follow(self, name: str, mutates: bool, args: Any, kwargs: Any, result: Any) -> None:
        rule = _RULES.get(name.rstrip("_") if mutates else name)
        options = {key: value for key, value in kwargs.items() if key == "alpha"}
        fact = _NOTHING if rule is None else rule(self.fact, *args, **options)
        outputs = (
            result if isinstance(result, list) else [result[0]] if isinstance(result, tuple) and result else [result]
        )
        for output in outputs:
            if torch.is_tensor(output):
                self._makers[id(output)] = name
                known = self._fitting(fact, output)
                if mutates:
                    self._overwrite(output, known)
                self._facts[id(output)] = (output, known)
        if mutates and not name.endswith("_"):  # writes where its result does not show
            for tensor in tree_leaves((args, kwargs)):
                if torch.is_tensor(tensor):
                    self._overwrite(tensor, _NOTHING)
                    self._facts[id(tensor)] = (tensor, _NOTHING)

    def _fitting(self, fact: Fact, output: torch.Tensor) -> Fact:
        """A tensor is the same as the input only at its full size, in a precision that can hold it."""
        stream = self._stream
        assert stream is not None
        exact = torch.promote_types(stream.dtype, output.dtype) == output.dtype
        fits = exact and output.numel() == stream.numel()
        return fact if fits or fact.same is None else Fact(zero=fact.zero, own=fact.own)

    def _overwrite(self, changed: torch.Tensor, fact: Fact) -> None:
        """A tensor was written to: tensors that share its memory keep only facts that hold for the new content, too."""
        memory = _memory(changed)
        for key, (tensor, known) in list(self._facts.items()):
            if tensor is not changed and _memory(tensor) == memory:
                self._facts[key] = (tensor, Fact(zero=_both(known.zero, fact.zero)))


def follow_block(model: "PreTrainedModel", name: str, branch: str | None = None) -> Trace:
    """Run `model`, which is on the meta device, and follow what its block called `name` does.

    The trace's `output` is what the block returned. With `branch`, a module in the block, facts say what makes a tensor
    the `same` as that module's output when the block's input is zero. Raises whatever the model raises.
    """
    block = model.get_submodule(name)
    outside = (
        module
        for other, module in model.named_modules(remove_duplicate=False)
        if other != name and not other.startswith(f"{name}.")
    )
    trace = Trace(block, {id(tensor) for module in outside for tensor in module._parameters.values()})

    def follow(_: int, own: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            trace.enter_block(hidden_of(args, kwargs), is_zero=branch is not None)
            output = own(*args, **kwargs)
            trace.leave_block(output)
            return output

        return run

    with contextlib.ExitStack() as held:
        held.enter_context(replaced_forwards([block], follow))
        if branch is not None:
            hook = block.get_submodule(branch).register_forward_hook(lambda _, __, output: trace.enter_branch(output))
            held.callback(hook.remove)
        run_few_tokens(model, trace)
    return trace


class _Use(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the phase of the forward in which each tensor is first an operation's argument."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = "before"
        self.first: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if torch.is_tensor(tensor):
                self.first.setdefault(id(tensor), self.phase)
        return _without_values(func, args, kwargs or {}, outside=True)  # the blocks are not followed


def moments_of_use(model: "PreTrainedModel", blocks: nn.Module) -> dict[int, str]:
    """When each tensor of a model, with weights or without, is first used, by its id: "before", "between" or "after".

    "Between" is while the blocks run. Tensors that a forward of text does not use are not listed. Raises whatever the
    model raises.
    """
    use = _Use()
    first, *_, last = [*blocks.children()] * 2
    hooks = [
        first.register_forward_pre_hook(lambda *_: setattr(use, "phase", "between")),
        last.register_forward_hook(lambda *_: setattr(use, "phase", "after")),
    ]
    try:
        run_few_tokens(model, use)
    finally:
        for hook in hooks:
            hook.remove()
    named = [*model.parameters(), *model.buffers()]
    return {id(tensor): use.first[id(tensor)] for tensor in named if id(tensor) in use.first}


def _without_values(func: Any, args: Any, kwargs: Any, outside: bool) -> Any:
    """Run an operation; outside the blocks, return one, or true, where a value is needed.

    Code there looks at masks and positions, whose values do not change how a block is wired.
    """
    if outside and func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
        return torch.ones((), dtype=args[0].dtype).item()
    return func(*args, **kwargs)


def run_few_tokens(model: "PreTrainedModel", mode: TorchDispatchMode) -> None:
    """A forward of a few tokens, with its operations going through `mode`."""
    where = model.get_input_embeddings().weight.device
    training = model.training
    model.eval()
    try:
        with (
            _batched_experts(model) if where.type == "meta" else contextlib.nullcontext(),
            torch.no_grad(),
            where,
            mode,
        ):
            model(input_ids=torch.ones((1, 4), dtype=torch.long), use_cache=False)
    finally:
        model.train(training)


@contextlib.contextmanager
def _batched_experts(model: "PreTrainedModel") -> Iterator[None]:
    """Compute experts as one product over all of them, since loops over the chosen ones need values."""
    before = getattr(model.config, "_experts_implementation_internal", None)
    model.config._experts_implementation_internal = "batched_mm"
    try:
        yield
    finally:
        model.config._experts_implementation_internal = before
