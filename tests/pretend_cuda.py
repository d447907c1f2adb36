"""A CUDA device pretended on the CPU: what goes wrong on a GPU's first run, found where there is none.

    with pretend_cuda() as device:
        model.cuda()(images.cuda())      # computed by the CPU, kept to a GPU's rules
    device.waits                         # the operations at which the host waited

Tensors are tagged by their storage. An operation that mixes both devices, or hands a tensor of the device to numpy, is
refused as CUDA refuses it; while a graph is recorded so is whatever waits or copies from the host, and replaying runs
the recorded operations on the tensors they were recorded with. CUDA's attention kernels are asked as torch declares
them and refuse what the real ones refuse. Times, memory and names are made up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import torch
import torch._dynamo  # which, imported later, would take what is pretended for its own
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

MASKED = "attention with a mask"
"""Noted among the backends: CUDA's quickest takes none."""

_CUDA = torch.device("cuda", 0)
_WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique")
_BRIDGES = ("copy_", "_to_copy", "set_", "is_same_size", "_has_compatible_shallow_copy_type")
"""Operations that may see tensors of both devices."""


class Pretended:
    """The device: whose storages are on it, and what happened.

    Args:
        name: As ``torch.cuda.get_device_name`` tells it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waits = list[str]()
        self.operations = list[str]()
        self.backends = list[str]()
        self.recording: Graph | None = None
        self.free = 10**9
        self._storages = dict[int, StorageWeakRef]()

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on it."""
        return tensor.untyped_storage()._cdata in self._storages  # held by a weak reference, so that none comes again

    def put(self, tensor: Tensor, there: bool = True) -> Tensor:
        """Say where a tensor's storage lies."""
        storage = tensor.untyped_storage()
        if there:
            self._storages[storage._cdata] = StorageWeakRef(storage)
        else:
            self._storages.pop(storage._cdata, None)
        return tensor

    def wait(self, what: str) -> None:
        """Note that the host waits.

        Raises:
            RuntimeError: A graph is being recorded.
        """
        self.waits.append(what)
        if self.recording is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def moved(self, tensor: Tensor, there: bool, waits: bool = True) -> Tensor:
        """A copy on the other side."""
        if self.has(tensor) and not there:
            if waits:
                self.wait("copy to the host")
        elif self.recording is not None and there and not self.has(tensor):
            self.wait("copy from the host")
        return self.put(tensor.clone(), there)


def _is_cuda(device: Any) -> bool:
    return device is not None and not isinstance(device, Tensor) and torch.device(device).type == "cuda"


class _Names(TorchFunctionMode):
    """What Python sees: devices of tensors, factories and copies."""

    def __init__(self, device: Pretended) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = dict(kwargs or {}), self.device
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None and func in _GETTERS:
            return _GETTERS[func](device.has(own), func, own)
        if func in (Tensor.cuda, Tensor.cpu):
            return device.moved(own, func is Tensor.cuda) if device.has(own) != (func is Tensor.cuda) else own
        if func is Tensor.pin_memory:
            return own
        if func is Tensor.to:
            return self._to(own, *args[1:], **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and device.has(own):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it")
        there = _is_cuda(kwargs.get("device"))
        if there:
            kwargs["device"] = "cpu"
        if func is Tensor.new_tensor or (there and func in (torch.tensor, torch.as_tensor)):
            there = there or device.has(own)
            device.wait("values from the host")
        found = func(*args, **kwargs)
        if there and isinstance(found, Tensor) and found.nbytes > device.free:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {found.nbytes} bytes")
        return device.put(found) if there and isinstance(found, Tensor) else found

    def _to(self, own: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        other, freely = kwargs.pop("other", None), False
        if args and isinstance(args[0], Tensor):
            other, args = args[0], args[1:]
        if other is not None:
            there, dtype = self.device.has(other), other.dtype
        else:
            copy = kwargs.pop("copy", False)
            place, dtype, freely, _ = torch._C._nn._parse_to(*args, **kwargs)
            there = self.device.has(own) if place is None else place.type == "cuda"
            own = own.clone() if copy else own
        found = own if dtype is None else own.to(dtype)
        return found if self.device.has(found) == there else self.device.moved(found, there, not freely)


_GETTERS: dict[Any, Callable[[bool, Any, Tensor], Any]] = {
    Tensor.device.__get__: lambda there, func, own: _CUDA if there else func(own),
    Tensor.is_cuda.__get__: lambda there, func, own: there,
    Tensor.is_cpu.__get__: lambda there, func, own: not there,
    Tensor.get_device: lambda there, func, own: 0 if there else -1,
}


class _Rules(TorchDispatchMode):
    """What the kernels see."""

    def __init__(self, device: Pretended) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = kwargs or {}, self.device
        name = str(func.overloadpacket).removeprefix("aten.")
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        large = {device.has(one) for one in tensors if one.dim()}  # a number may come from the host
        there = device.has(args[0]) if name in ("copy_", "set_") else any(map(device.has, tensors))
        if len(large) > 1 and name not in _BRIDGES:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")
        if there:
            device.operations.append(name)
            masks = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], Sequence) else ()
            if name.startswith(_WAITS) or any(isinstance(one, Tensor) and one.dtype == torch.bool for one in masks):
                device.wait(name)
            if name == "copy_" and not device.has(args[1]) and args[1].dim() and device.recording is not None:
                device.wait("copy from the host")
        kernel = _KERNELS.get(name)
        if name == "scaled_dot_product_attention" and there and (len(args) > 3 or kwargs.get("attn_mask") is not None):
            device.backends.append(MASKED)
        if kernel is not None and there:
            device.backends.append(name)
            found = kernel(*args, **kwargs)
        else:
            found = func(*args, **kwargs)
        for one in tree_flatten(found)[0]:
            if isinstance(one, Tensor) and there != device.has(one):
                device.put(one, there)
        if there and device.recording is not None:
            device.recording.steps.append((func if kernel is None else kernel, args, kwargs, found, tensors))
        return found


def _flash(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, causal: bool = False, debug: bool = False,
           *, scale: float | None = None) -> tuple[Any, ...]:  # fmt: skip
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, got {q.dtype}")
    if len({one.shape[-1] for one in (q, k, v)}) > 1 or q.shape[-1] % 8 or q.shape[-1] > 256:
        raise RuntimeError(f"head_size must be one multiple of 8 up to 256, got {[one.shape[-1] for one in (q, k, v)]}")
    if any(one.stride(-1) != 1 for one in (q, k, v)):
        raise RuntimeError("Input tensor must have contiguous last dimension")
    none = torch.zeros((), dtype=torch.int64)
    return *_plain(q, k, v, scale), none, none.clone(), q.shape[2], k.shape[2], none.clone(), none.clone(), q[:0, 0]


def _efficient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sums: bool, dropout: float = 0.0,
               causal: bool = False, *, scale: float | None = None) -> tuple[Tensor, ...]:  # fmt: skip
    if any(one.shape[-1] * one.element_size() % 16 or one.stride(-1) != 1 for one in (q, k, v)):
        raise RuntimeError("query, key or value is not correctly aligned")
    found, log_sums = _plain(q, k, v, scale)
    none = torch.zeros((), dtype=torch.int64)
    return found, torch.nn.functional.pad(log_sums, (0, -q.shape[2] % 32)), none, none.clone()


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(
            f"Expected query, key, and value to have the same dtype, got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    logits = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits.softmax(-1) @ v.float()).to(q.dtype), logits.logsumexp(-1)


_KERNELS: dict[str, Any] = {
    "_scaled_dot_product_flash_attention": _flash,
    "_scaled_dot_product_efficient_attention": _efficient,
}


class Graph:
    """``torch.cuda.CUDAGraph``: operations, and the tensors that they read and write."""

    def __init__(self) -> None:
        self.steps = list[tuple[Any, Any, Any, Any, list[Tensor]]]()

    def replay(self) -> None:
        """Run what was recorded, into the same tensors."""
        with _disable_current_modes(), torch.inference_mode():
            for func, args, kwargs, found, given in self.steps:
                held = {one.untyped_storage()._cdata for one in given}
                outputs = [one for one in tree_flatten(found)[0] if isinstance(one, Tensor)]
                schema = getattr(func, "_schema", None)
                if schema is not None and schema.is_mutable:
                    func(*args, **kwargs)
                elif not all(one.untyped_storage()._cdata in held for one in outputs):  # a view is one already
                    again = [one for one in tree_flatten(func(*args, **kwargs))[0] if isinstance(one, Tensor)]
                    for old, new in zip(outputs, again, strict=True):
                        old.copy_(new)


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> Self:
        return super().__new__(cls, "cpu")


class _Event:
    def __init__(self, **options: Any) -> None:
        self.when = 0.0

    def record(self, stream: Any = None) -> None:
        self.when = time.perf_counter()

    def synchronize(self) -> None:
        """Everything here is done at once."""

    def elapsed_time(self, other: _Event) -> float:
        return 1e3 * (other.when - self.when)


@contextmanager
def pretend_cuda(name: str = "Pretended GPU") -> Iterator[Pretended]:
    """See the module; one device, for the code inside and in this process alone."""
    device = Pretended(name)

    @contextmanager
    def recorded(graph: Graph, **options: Any) -> Iterator[None]:
        device.recording = graph
        try:
            yield
        finally:
            device.recording = None

    facts = SimpleNamespace(name=name, uuid="0", major=9, minor=0, total_memory=80 * 10**9, multi_processor_count=132)
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    nothing: Callable[..., None] = lambda *args, **options: None  # noqa: E731
    patched: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "_lazy_init": nothing,
        "get_device_name": lambda index=0: name, "get_device_properties": lambda index=0: facts,
        "get_device_capability": lambda index=0: (9, 0), "is_bf16_supported": lambda *args: True,
        "synchronize": nothing, "empty_cache": nothing, "reset_peak_memory_stats": nothing,
        "memory_allocated": lambda index=0: 0, "max_memory_allocated": lambda index=0: 10**6,
        "mem_get_info": lambda index=0: (device.free, facts.total_memory),
        "Event": _Event, "Stream": lambda *args: stream,
        "current_stream": lambda *args: stream, "stream": lambda one: nullcontext(), "CUDAGraph": Graph,
        "device": lambda index: nullcontext(), "graph": recorded, "manual_seed_all": nothing,
        "get_rng_state": lambda index=0: torch.zeros(16, dtype=torch.uint8), "set_rng_state": nothing,
    }  # fmt: skip
    autocast, is_autocast = torch.autocast, torch.is_autocast_enabled
    named = {
        "autocast": lambda kind, *args, **options: autocast("cpu", *args, **options),
        "is_autocast_enabled": lambda kind="cuda": is_autocast("cpu"),
        "Generator": _Generator,
    }
    with (
        warnings.catch_warnings(), mock.patch.multiple(torch.cuda, **patched), mock.patch.multiple(torch, **named),
        _Names(device), _Rules(device),
    ):  # fmt: skip
        # torch's own C++ knows better whether there is a GPU to pin memory for.
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true", UserWarning)
        yield device
