"""This machine as a modelled target: peaks, bandwidth and overheads measured on small nets of equal layers.

What is fitted is a roofline's few figures and the share of the peak by width and kind of layer; the nets that it is
later compared with are never seen. Per-layer times are differences of a longer and a shorter chain, so that what a call
costs by itself drops out and is known too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError, nearest
from compressbench.models.quantized import load_scales, quantize

RUNTIMES = ("openvino", "onnxruntime", "torch")
SHORT, LONG = 2, 6
MACS = 12e6
WIDTHS = {
    "convolution": (4, 8, 16, 32, 64, 128, 256),
    "pointwise": (8, 16, 32, 64, 128, 256, 512),
    "depthwise": (8, 32, 128),
}
WEIGHT = {"bits": 8, "low": -127, "high": 127, "axis": None}
INPUT = {"bits": 8, "low": 0, "high": 255, "axis": None}
Compile = Callable[[nn.Module, Tensor], Callable[[], object]]


@dataclass(frozen=True)
class Fitted:
    """What was measured, in base units: operations, bytes and seconds."""

    peaks: Mapping[str, float]
    shares: Mapping[str, Sequence[tuple[float, float]]]
    bandwidth: float
    cache: float
    cache_bandwidth: float
    overhead: float
    call: float


def fit(runtime: str, say: Callable[[str], None], seconds: float = 0.08) -> Fitted:
    """Measures one thread of this machine.

    Args:
        seconds: of timing for each chain.

    Raises:
        UserError: an unknown runtime, or its package is missing.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime: unknown {runtime!r}; {nearest(runtime, RUNTIMES)}")
    compiled = {"openvino": _openvino, "onnxruntime": _onnxruntime, "torch": _torch}[runtime]()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _fit(compiled, say, seconds, integers=runtime == "openvino")
    finally:
        torch.set_num_threads(before)


def _fit(compiled: Compile, say: Callable[[str], None], seconds: float, integers: bool) -> Fitted:
    def each(make: Callable[[int], nn.Module], sample: Tensor) -> tuple[float, float]:
        """(seconds a layer, seconds a call) of chains."""
        short, long = (_time(compiled(make(n), sample), seconds) for n in (SHORT, LONG))
        layer = max((long - short) / (LONG - SHORT), 1e-9)
        return layer, max(short - SHORT * layer, 0.0)

    say("overheads: chains of tiny layers")
    overhead, call = each(lambda n: _chain("convolution", 4, n), torch.rand(1, 4, 4, 4))
    say("bandwidths: linear layers at batch 1")
    far = _time(compiled(_linear(4096, 2), torch.rand(1, 4096)), seconds)
    bandwidth = 2 * 4096 * 4096 * 4 / far
    near, _ = each(lambda n: _linear(384, n), torch.rand(1, 384))
    cache_bandwidth = max(384 * 384 * 4 / max(near - overhead, near / 4), bandwidth)
    rates: dict[str, list[tuple[float, float]]] = {}
    for kind, widths in WIDTHS.items():
        for width in widths:
            say(f"{kind}, {width} channels")
            sample = _sample(kind, width)
            layer, _ = each(lambda n, k=kind, w=width: _chain(k, w, n), sample)  # type: ignore[misc]
            operations = 2 * _weights(kind, width) * sample.shape[2] * sample.shape[3]
            rates.setdefault(f"fp32 {kind}", []).append(
                (width, operations / max(layer - overhead, layer / 4))
            )
            if integers and kind != "depthwise":
                layer, _ = each(lambda n, k=kind, w=width: _rounding(_chain(k, w, n)), sample)  # type: ignore[misc]
                rates.setdefault(f"int8 {kind}", []).append(
                    (width, operations / max(layer - overhead, layer / 4))
                )
    say("linear layers at batch 64")
    for width in (64, 256, 1024):
        layer, _ = each(lambda n, w=width: _linear(w, n), torch.rand(64, width))  # type: ignore[misc]
        rates.setdefault("fp32 linear", []).append(
            (width, 2 * 64 * width**2 / max(layer - overhead, layer / 4))
        )
    kinds = {name.partition(" ")[0] for name in rates}
    peaks = {
        kind: max(r for n, found in rates.items() if n.startswith(kind) for _, r in found) for kind in kinds
    }
    shares = {n: [(w, r / peaks[n.partition(" ")[0]]) for w, r in found] for n, found in rates.items()}
    return Fitted(peaks, shares, bandwidth, cache_bytes(), cache_bandwidth, overhead, call)


def as_yaml(fitted: Fitted, runtime: str, where: str) -> str:
    """The target's YAML file."""
    supports = {
        "int8": True if "int8" in fitted.peaks else "not calibrated on this runtime: runs in float",
        "2:4": "no 2:4 arithmetic: runs dense",
        "unstructured": "no sparse kernels on this runtime: zeros run dense",
        "structured": True,
        "exits": True,
    }
    lines = [
        f"# this_machine: {where}, {runtime}, one thread; a roofline fitted by compressbench calibrate",
        "_target_: compressbench.hardware.modelled.Modelled",
        f"name: this machine, {runtime}",
        "family: cpu",
        f"peaks: {{{', '.join(f'{k}: {v / 1e9:.4g} GOP/s' for k, v in sorted(fitted.peaks.items()))}}}",
        f"bandwidth: {fitted.bandwidth / 1e9:.4g} GB/s",
        f"memory: {_memory() / 1e9:.4g} GB",
        f"cache: {fitted.cache / 1e6:.4g} MB",
        f"cache_bandwidth: {fitted.cache_bandwidth / 1e9:.4g} GB/s",
        f"overhead: {1e6 * max(fitted.overhead, 1e-9):.4g} us",
        f"call: {1e6 * max(fitted.call, 1e-9):.4g} us",
        "fitted:",
        *(
            f"  {name}: [{', '.join(f'[{w:g}, {s:.4g}]' for w, s in found)}]"
            for name, found in sorted(fitted.shares.items())
        ),
        "supports:",
        *(f'  "{k}": {"true" if v is True else f"{chr(34)}{v}{chr(34)}"}' for k, v in supports.items()),
        "sources:",
        '  peaks: "measured by compressbench calibrate: verified on this machine"',
    ]
    return "\n".join(lines) + "\n"


def cache_bytes() -> float:
    """The largest cache that one core has to itself or shares, as Linux tells; 1 MB where it doesn't."""
    found = [1e6]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text[:-1].isdigit() and text[-1] in "KM":
            found.append(int(text[:-1]) * (2**10 if text[-1] == "K" else 2**20))
    return max(found)


def _memory() -> float:
    import os

    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return 4e9


def _chain(kind: str, width: int, count: int) -> nn.Module:
    groups = width if kind == "depthwise" else 1
    kernel = 1 if kind == "pointwise" else 3
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _linear(width: int, count: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _sample(kind: str, width: int) -> Tensor:
    """A picture on which a layer takes about ``MACS``, of 7 to 56 pixels a side."""
    side = max(7, min(56, round((MACS / _weights(kind, width)) ** 0.5)))
    return torch.rand(1, width, side, side)


def _weights(kind: str, width: int) -> int:
    """Of one layer; each is used once for every position of the picture."""
    return {"convolution": 9 * width**2, "pointwise": width**2, "depthwise": 9 * width}[kind]


def _rounding(module: nn.Module) -> nn.Module:
    layers = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d)]
    out = quantize(module, {name: {"weight": WEIGHT, "input": INPUT} for name in layers})
    zero = torch.zeros((), dtype=torch.int32)
    scales = {"weight": torch.tensor(0.01), "input": torch.tensor(1 / 255)}
    load_scales(
        out,
        {
            f"{n}.{p}|{e}": scales[p] if e == "scale" else zero
            for n in layers
            for p in scales
            for e in ("scale", "zero")
        },
    )
    return out


def _time(run: Callable[[], object], seconds: float) -> float:
    """The fastest of as many runs as fit, at least 7: what else the machine does only adds."""
    run()
    run()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < 7 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _openvino() -> Compile:
    from compressbench.hardware.onnx_graph import graph_of
    from compressbench.hardware.openvino_cpu import compile_model, package

    core = package().Core()

    def compiled(module: nn.Module, sample: Tensor) -> Callable[[], object]:
        model: Any = compile_model(core, graph_of(module, (sample,)).bytes(), [tuple(sample.shape)], 1, "f32")
        request, data = model.create_infer_request(), [sample.numpy()]
        return lambda: request.infer(data)

    return compiled


def _onnxruntime() -> Compile:
    from compressbench.hardware.onnx_graph import graph_of
    from compressbench.hardware.onnxruntime_cpu import open_session, package

    runtime = package()

    def compiled(module: nn.Module, sample: Tensor) -> Callable[[], object]:
        session, data = (
            open_session(runtime, graph_of(module, (sample,)).bytes(), 1),
            {"images": sample.numpy()},
        )
        return lambda: session.run(None, data)

    return compiled


def _torch() -> Compile:
    from compressbench.models.prepared import prepared

    def compiled(module: nn.Module, sample: Tensor) -> Callable[[], object]:
        fast = prepared(module, sample)

        def run() -> object:
            with torch.inference_mode():
                return fast(sample)

        return run

    return compiled
