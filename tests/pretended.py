"""A CUDA device that is none: tensors stay in the processor's memory, and it is kept where they are said to be.

Inside ``pretended()`` torch finds a GPU. What would fail there fails here: an operation on tensors of two devices, a
processor's generator for a tensor of the GPU, ``.numpy()`` of one, and, while a graph is recorded, anything that
waits for the GPU or reads the processor's memory. What would wait for the GPU is counted. A recorded graph does
nothing until it is replayed, and then repeats the recorded operations on the recorded memory, numbers of Python as
they were.

It is no GPU: kernels, their limits (types, alignment, memory) and their time aren't pretended, ``torch.compile`` does
nothing, and what C++ does with a device of its own choosing is taken to be right.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

GPU, CPU, EITHER = "cuda", "cpu", "either"
"""Where memory is; ``either``: made by C++ inside of an operation, as autograd's zeros are."""
MOVES = (Tensor.to, Tensor.cuda, Tensor.cpu)
BARE = (Tensor.new_tensor, Tensor.__deepcopy__)
READS = (
    Tensor.item,
    Tensor.tolist,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__bool__,
    Tensor.__index__,
    Tensor.__contains__,
)
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_consecutive",
    "bincount",
    "equal",
)
WAITS_OF_MASKS = ("index", "index_put", "index_put_")


_PLACES: dict[int, tuple[StorageWeakRef, str]] = {}
"""By the address of a memory's owner, which no other has while it is watched; tensors may be kept for later."""


class Elsewhere(RuntimeError):
    """What torch would refuse on a GPU."""


class Pretended:
    """Which memory is on the GPU, and what happened there.

    Attributes:
        waits: how often the processor waited for the GPU, by the operation that made it.
        strict: whether to wait is an error.
    """

    def __init__(self) -> None:
        self.places = _PLACES
        self.waits: Counter[str] = Counter()
        self.strict = False
        self.recording: Graph | None = None
        self._told = False

    def place(self, tensor: Tensor) -> str:
        """Where a tensor is."""
        found = self.places.get(_storage(tensor)._cdata)
        return CPU if found is None else found[1]

    def put(self, result: Any, place: str) -> Any:
        """Says of all tensors in a result where they are."""
        for tensor in _tensors(result):
            storage = _storage(tensor)
            if place == CPU:
                self.places.pop(storage._cdata, None)
            else:
                self.places[storage._cdata] = (StorageWeakRef(storage), place)
        return result

    def wait(self, why: str) -> None:
        """The processor waits for the GPU."""
        if self._told:
            return
        if self.recording is not None:
            raise Elsewhere(
                f"{why} while a graph is recorded: operation not permitted when stream is capturing"
            )
        if self.strict:
            raise Elsewhere(f"{why} waits for the GPU")
        self.waits[why] += 1

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Inside, nothing more is counted: the call as a whole was."""
        self._told = True
        try:
            yield
        finally:
            self._told = False

    def moved(self, tensor: Tensor, place: str, was: str, source: Tensor) -> Tensor:
        """A tensor's copy on the other device, or itself."""
        if was == place:
            return tensor
        if place == CPU or source.numel() > 1 or not source.ndim:
            self.wait("a copy to the CPU" if place == CPU else "a copy to the GPU")
        same = _storage(tensor)._cdata == _storage(source)._cdata
        return self.put(tensor.clone() if same else tensor, place)  # type: ignore[no-any-return]


class Graph:
    """What ``torch.cuda.CUDAGraph`` is here."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.own: set[int] = set()
        self.before: dict[int, tuple[Any, Any]] = {}
        self.kept: list[Any] = []

    def replay(self) -> None:
        """Does all that was recorded, on the same memory."""
        with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes():
            for step in self.steps:
                step()

    def pool(self) -> int:
        """Nothing."""
        return 0

    def note(self, args: Any) -> None:
        """Keeps what the memory held that an operation is given, since recording does nothing."""
        for tensor in _tensors(args):
            storage = _storage(tensor)
            if storage._cdata not in self.own and storage._cdata not in self.before:
                self.before[storage._cdata] = (storage, storage.clone())

    def step(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """One operation more."""
        given = {_storage(t)._cdata for t in _tensors((args, kwargs))}
        made = [t for t in _tensors(result) if _storage(t)._cdata not in given]
        self.own |= {_storage(t)._cdata for t in made}
        self.kept.append((args, kwargs, result))
        if not made and not func._schema.is_mutable:
            return

        def again() -> None:
            found = _tensors(func(*args, **kwargs))
            fresh = [t for t in found if _storage(t)._cdata not in given]
            for there, value in zip(made, fresh, strict=True):
                there.copy_(value)

        self.steps.append(again)

    def end(self) -> None:
        """Undoes what recording did."""
        for storage, held in self.before.values():
            storage.copy_(held)
        self.before = {}


class _Calls(TorchFunctionMode):
    def __init__(self, there: Pretended) -> None:
        super().__init__()
        self.there = there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, there = dict(kwargs or {}), self.there
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None and getattr(func, "__name__", "") == "__get__":
            if func == Tensor.device.__get__:  # type: ignore[attr-defined]
                return torch.device("cuda", 0) if there.place(own) == GPU else func(*args)
            if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
                return there.place(own) == GPU
            if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
                return there.place(own) != GPU
        if own is not None and there.place(own) == GPU:
            if func in (Tensor.numpy, Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
            if func in READS:  # in inference mode torch reads a number without an operation
                there.wait(func.__name__)
                with there.told():
                    return func(*args, **kwargs)
            if func is Tensor.get_device:
                return 0
        if func is Tensor.pin_memory:
            return own
        if func in MOVES and own is not None:
            return self._move(func, own, args[1:], kwargs)
        wanted = kwargs.pop("device", None)
        result = func(*args, **kwargs)
        given = _tensors((args, kwargs))
        if wanted is not None:
            place = GPU if torch.device(wanted).type == "cuda" else CPU
            drawn = kwargs.get("generator")
            if place == GPU and drawn is not None and drawn.device.type == "cpu":
                raise Elsewhere("Expected a 'cuda' device type for generator but found 'cpu'")
            shared = {_storage(t)._cdata: t for t in given}
            for tensor in _tensors(result):
                source = shared.get(_storage(tensor)._cdata)
                if source is None:
                    there.put(tensor, place)
                elif there.place(source) != place:
                    return there.moved(tensor, place, there.place(source), source)
            return result
        if func in BARE and own is not None:
            return there.put(result, there.place(own))
        place = GPU if any(there.place(t) == GPU for t in given) else CPU
        for tensor in _tensors(result):
            if there.place(tensor) == EITHER:
                there.put(tensor, place)
        return result

    def _move(self, func: Any, own: Tensor, rest: Any, kwargs: Any) -> Tensor:
        there, was = self.there, self.there.place(own)
        place = {Tensor.cuda: GPU, Tensor.cpu: CPU}.get(func, was)
        kept = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        for value in (*rest, kwargs.get("device")):
            if isinstance(value, torch.device | str):
                place = GPU if torch.device(value).type == "cuda" else CPU
            elif isinstance(value, Tensor):
                place, kept["dtype"] = there.place(value), value.dtype
            elif isinstance(value, torch.dtype):
                kept["dtype"] = value
        if func is not Tensor.to:
            kept = {}
        kept = {k: v for k, v in kept.items() if v is not None}
        return there.moved(own.to(**kept) if kept else own, place, was, own)


class _Operations(TorchDispatchMode):
    def __init__(self, there: Pretended) -> None:
        super().__init__()
        self.there = there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, there = kwargs or {}, self.there
        name, given = func._schema.name.removeprefix("aten::"), _tensors((args, kwargs))
        places = [there.place(t) for t in given]
        on_gpu = GPU in places
        if on_gpu:
            self._check(name, func, args, kwargs, given, places)
            if there.recording is not None:
                args, kwargs = pytree.tree_map_only(
                    Tensor, lambda t: t.clone() if there.place(t) == CPU else t, (args, kwargs)
                )
                there.recording.note((args, kwargs))
        result = func(*args, **kwargs)
        if on_gpu and there.recording is not None:
            there.recording.step(func, args, kwargs, result)
        held = {_storage(t)._cdata for t in given}
        place = GPU if on_gpu else EITHER if EITHER in places or not given else CPU
        for tensor in _tensors(result):
            if place != CPU and _storage(tensor)._cdata not in held:
                there.put(tensor, place)
        return result

    def _check(
        self, name: str, func: Any, args: Any, kwargs: Any, given: list[Tensor], places: list[str]
    ) -> None:
        there = self.there
        if name == "_has_compatible_shallow_copy_type":
            return
        if name in ("copy_", "_copy_from"):
            if places[0] != places[1] and EITHER not in places:
                there.wait("a copy to the CPU" if places[0] == CPU else "a copy to the GPU")
            return
        lent: list[Tensor] = []
        if name in WAITS_OF_MASKS:
            lent = [t for t in args[1] if t is not None]
            if any(t.dtype in (torch.bool, torch.uint8) for t in lent) or any(
                there.place(t) == CPU for t in lent
            ):
                there.wait(name)
        if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            there.wait(name)
        for tensor, place in zip(given, places, strict=True):
            first = tensor is given[0] and name in WAITS_OF_MASKS
            if place == CPU and (first or (tensor.ndim and not any(tensor is t for t in lent))):
                raise Elsewhere(
                    f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu"
                )
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.Generator) and value.device.type == "cpu":
                raise Elsewhere(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")


class _Event:
    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        return None

    def elapsed_time(self, other: _Event) -> float:
        return 1000 * (other.at - self.at)


class _Stream:
    def __init__(self, *_: Any, **__: Any) -> None:
        return None

    def wait_stream(self, other: Any) -> None:
        return None

    def synchronize(self) -> None:
        return None


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """Inside, torch finds one GPU."""
    there = Pretended()

    def waits(*_: Any) -> None:
        there.wait("synchronize")

    @contextlib.contextmanager
    def recorded(graph: Graph, *_: Any, **__: Any) -> Iterator[None]:
        there.recording = graph
        try:
            yield
        finally:
            there.recording = None
            graph.end()

    def strictly(mode: int | str) -> None:
        there.strict = mode in (2, "error")

    grouped = torch._C._group_tensors_by_device_and_dtype

    def groups(tensors: Any, with_indices: bool = False) -> Any:
        return {
            (torch.device("cuda", 0) if there.place(part[0][0]) == GPU else device, dtype): (part, places)
            for (device, dtype), (part, places) in grouped(tensors, with_indices).items()
        }

    properties = SimpleNamespace(
        name="pretended", major=9, minor=0, total_memory=2**33, multi_processor_count=1
    )
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "pretended GPU",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: properties,
        "synchronize": waits,
        "manual_seed": torch.default_generator.manual_seed,
        "manual_seed_all": torch.default_generator.manual_seed,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "max_memory_allocated": lambda *_: 1 << 20,
        "memory_allocated": lambda *_: 1 << 10,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "set_sync_debug_mode": strictly,
        "is_current_stream_capturing": lambda: there.recording is not None,
        "graph_pool_handle": lambda: 0,
        "current_stream": lambda *_: _Stream(),
        "stream": lambda *_: contextlib.nullcontext(),
        "Stream": _Stream,
        "Event": _Event,
        "CUDAGraph": Graph,
        "graph": recorded,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "compile", _uncompiled))
        now = SimpleNamespace(is_capturing=replaced["is_current_stream_capturing"])
        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", groups))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", return_value=now))
        stack.enter_context(_Operations(there))
        stack.enter_context(_Calls(there))
        yield there


def _uncompiled(model: Any = None, **_: Any) -> Any:
    return model if model is not None else _uncompiled


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction():
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return tensor.untyped_storage()
