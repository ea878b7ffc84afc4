"""A GPU that is none: tensors that say they are on cuda:0, while a CPU computes with them.

They are refused where CUDA refuses them: beside a tensor of the CPU in one operation, as a numpy array. So code that
would fail on a GPU for where its tensors are fails here too, on any machine. Speed, kernels and streams are not there.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda:0")
_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy, _aten._copy_from, _aten._foreach_copy_}
_INDEXED = {_aten.index, _aten.index_put_, _aten.index_put, _aten._unsafe_index, _aten._index_put_impl_}


class OnGPU(torch.Tensor):
    """A tensor of the pretended GPU; `held` has its numbers. Only to torch's own code it is on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnGPU":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device="cpu",
            requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    device = GPU  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]
    is_cpu = False  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.held!r})"

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A copy of another device or dtype."""
        copy = kwargs.pop("copy", False)
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda":
            if not copy and dtype in (None, self.dtype):
                return self
            return _aten._to_copy(self, dtype=dtype or self.dtype, device=GPU)
        return _aten._to_copy(self, dtype=dtype or self.dtype, device=device)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            made: torch.Tensor = OnGPU(self.held.detach().clone())
            memo[id(self)] = torch.nn.Parameter(made, self.requires_grad) if getattr(self, "_is_param", False) else made
        return memo[id(self)]

    def cpu(self, *_: Any) -> torch.Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.held.tolist()

    def storage(self) -> Any:
        return self.held.storage()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result on the device that CUDA's would be on."""
    kind = func.overloadpacket
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    device = kwargs.get("device")
    if device is None:
        device = _device_of(func, kind, args, tensors)
    # torch's own backward passes ask for the CPU, as that is where the tensors are for them
    in_backward = torch._C._current_graph_task_id() != -1
    on_gpu = in_backward or torch.device(device).type == "cuda"
    held_args, held_kwargs = tree_map(lambda one: one.held if isinstance(one, OnGPU) else one, (args, kwargs))
    if "device" in held_kwargs:
        held_kwargs["device"] = None if held_kwargs["device"] is None else torch.device("cpu")
    if held_kwargs.get("pin_memory"):
        held_kwargs["pin_memory"] = False
    result = func(*held_args, **held_kwargs)
    if kind is _aten._to_copy and not on_gpu and result is held_args[0]:
        result = result.clone()
    if not on_gpu:
        return result
    result = tree_map(lambda one: OnGPU(one) if isinstance(one, torch.Tensor) else one, result)
    return return_and_correct_aliasing(func, args, kwargs, result)


def _device_of(func: Any, kind: Any, args: Any, tensors: list[torch.Tensor]) -> torch.device:
    if kind in _COPIES or kind in _INDEXED:
        first = args[0][0] if isinstance(args[0], list | tuple) else args[0]
        if kind in _INDEXED and not isinstance(first, OnGPU) and any(isinstance(one, OnGPU) for one in tensors):
            raise RuntimeError(f"{func}: indices of the GPU for a tensor of the CPU")
        put = len(args) > 2 and isinstance(first, OnGPU) and kind in (_aten.index_put_, _aten.index_put)
        if put and not isinstance(args[2], OnGPU) and args[2].dim():
            raise RuntimeError(f"{func}: values of the CPU for a tensor of the GPU")
        return first.device
    there = [one for one in tensors if isinstance(one, OnGPU)]
    if not there:
        return torch.device("cpu")
    foreign = [one for one in tensors if not isinstance(one, OnGPU) and one.dim()]
    if foreign:
        raise RuntimeError(f"{func}: a tensor {tuple(foreign[0].shape)} of the CPU beside one of the GPU")
    return GPU


class _Creating(TorchDispatchMode):
    """Makes tensors of the pretended GPU out of nothing, and out of those of the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Numbered(TorchFunctionMode):
    """Says cuda:0 for cuda, as torch without CUDA knows no current device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def numbered(one: Any) -> Any:
            if one == "cuda" if isinstance(one, str) else isinstance(one, torch.device) and one == torch.device("cuda"):
                return GPU
            return one

        args = tuple(numbered(one) for one in args)
        kwargs = {name: numbered(one) for name, one in (kwargs or {}).items()}
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.Tensor):
            return args[0].to(device=args[1].device, dtype=args[1].dtype, **kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:  # which copy where no mode looks
            return func(*args, **{**kwargs, "device": "cpu"}).to(GPU)
        if func is torch.nn.functional.scaled_dot_product_attention and kwargs.pop("is_causal", False):
            rows = torch.ones(args[0].shape[-2], args[1].shape[-2], dtype=torch.bool, device=args[0].device)
            kwargs["attn_mask"] = rows.tril()  # otherwise torch's own code makes one on the CPU
        return func(*args, **kwargs)


class _Event:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _pinned(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    assert not isinstance(tensor, OnGPU), "only tensors of the CPU can be pinned"
    return tensor


def _as_on_cpu(call: Any) -> Any:
    """A function of a device's name that says cpu for cuda, as the tensors are there to torch's own code."""
    return lambda device, *args, **kwargs: call("cpu" if device == "cuda" else device, *args, **kwargs)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, "cuda" is a device that there seems to be."""
    stand_ins = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "is_bf16_supported": lambda *_: True, "current_device": lambda: 0,
        "device_count": lambda: 1, "get_device_name": lambda *_: "NVIDIA H200", "synchronize": lambda *_: None,
        "empty_cache": lambda: None, "is_current_stream_capturing": lambda: False, "reset_peak_memory_stats": lambda *_: None, "memory_allocated": lambda *_: 2**20,
        "max_memory_allocated": lambda *_: 2**21, "mem_get_info": lambda *_: (2**37, 2**37), "Event": _Event,
        "get_device_capability": lambda *_: (9, 0), "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None, "current_stream": lambda *_: mock.MagicMock(device_type=1),
        "stream": lambda _: nullcontext(),
        "get_device_properties": lambda *_: mock.Mock(total_memory=2**37, multi_processor_count=132),
    }  # fmt: skip
    with ExitStack() as held:
        for name, value in stand_ins.items():
            held.enter_context(mock.patch.object(torch.cuda, name, value))
        for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"):
            held.enter_context(mock.patch.object(torch, name, _as_on_cpu(getattr(torch, name))))
        held.enter_context(mock.patch.object(torch.Tensor, "pin_memory", _pinned))  # in the reader's thread, too
        held.enter_context(mock.patch("torch.__future__._swap_module_params_on_conversion", True))  # ties stay tied
        held.enter_context(_Numbered())
        held.enter_context(_Creating())
        yield
