"""A calibrated roofline against the clock: nets that it was not fitted to, one thread, batch 1, one line a net.

    python benchmarks/model.py [--runtime openvino] [--seconds 1]

This machine is calibrated first (``compressbench calibrate``), then each net is predicted and timed; random weights and
images. The error is prediction over measurement, less one; the median of its absolute value is the last line. Quantized
and halved forms of some nets follow; they count by themselves.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import Any

import torch
import yaml

from compressbench import specs
from compressbench.bench import Bench
from compressbench.hardware.calibrating import as_yaml, fit
from compressbench.hardware.modelled import Modelled
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.openvino_cpu import OpenVINOCPU
from compressbench.hardware.target import Lowered
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.models.draw import drawn
from compressbench.runs.provenance import processor, versions
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import Channels
from compressbench.state import State
from compressbench.views import View
from deployment import bench_of

RESNET = "compressbench.models.resnet.CifarResNet"
IMAGENET = "compressbench.models.resnet.ImageNetResNet"
NETS: dict[str, tuple[dict[str, Any], int]] = {
    **{f"resnet{d}, 32 px": ({"_target_": RESNET, "depth": d}, 32) for d in (8, 14, 20, 32, 56)},
    "resnet18 small, 32 px": ({"_target_": IMAGENET, "depth": 18, "small_input": True}, 32),
    "resnet18, 224 px": ({"_target_": IMAGENET, "depth": 18, "small_input": False}, 224),
    "resnet50, 224 px": ({"_target_": IMAGENET, "depth": 50, "small_input": False}, 224),
    "resnet20, 64 px": ({"_target_": RESNET, "depth": 20}, 64),
}
MORE = ("vgg16", "conv_4", "lenet_5", "lenet_300_100")
RUNTIMES = {"openvino": OpenVINOCPU, "onnxruntime": OnnxRuntimeCPU, "torch": TorchCPU}


def nets() -> dict[str, tuple[dict[str, Any], int]]:
    """Name -> (build, pixels a side)."""
    from compressbench.specs.conf import conf_dir

    found = dict(NETS)
    for name in MORE:
        build = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))["build"]
        found[f"{name}, 32 px"] = (build, 32)
    if importlib.util.find_spec("efficientnet_lite_pytorch"):
        found["efficientnet_lite0, 224 px"] = ({"_target_": "model.lite0", "classes": "@classes"}, 224)
    return found


def lite0(classes: int) -> Any:
    """Somebody else's net, of depthwise and pointwise convolutions."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0", num_classes=classes)


def compare(name: str, state: State, bench: Bench, model: Modelled, runtime: Any) -> float | None:
    """Prints one line; the relative error."""
    view = View(state, bench)
    predicted, real = model.lower(view), runtime.lower(view)
    if not isinstance(predicted, Lowered) or not isinstance(real, Lowered):
        print(f"  {name:<32} {predicted if not isinstance(predicted, Lowered) else real}")
        return None
    said, timing = model.time([predicted], 1)[0].median, runtime.time([real], 1)[0]
    error = said / timing.median - 1
    print(
        f"  {name:<32} modelled {1000 * said:9.3f} ms, measured {1000 * timing.median:9.3f} ms (n={len(timing.seconds)})"
        f"  {100 * error:+6.1f} %  {timing.disturbed}"
    )
    return error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino")
    parser.add_argument("--seconds", type=float, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; {args.runtime}, 1 thread")
    text = as_yaml(fit(args.runtime, lambda _: None), args.runtime, processor())
    print(text)
    model: Modelled = specs.build({**yaml.safe_load(text), "batches": [1]}, "this_machine")
    runtime = RUNTIMES[args.runtime](batches=(1,), seconds=args.seconds)
    errors: dict[str, list[float]] = {"float": [], "int8": [], "half of the channels": []}
    criterion = {specs.TARGET: "compressbench.criteria.magnitude.magnitude", specs.PARTIAL: True}
    for name, (build, size) in nets().items():
        bench = bench_of(size, 1000 if size == 224 else 10, 32)
        state = drawn({"name": name, "build": {**build, **_shape(build)}}, bench)
        forms: dict[str, State] = {"float": state}
        if "resnet" in name:
            forms["int8"] = Quantize(examples=16).apply(state, bench)
        if name.startswith(("resnet20", "resnet56", "resnet18, ")):
            forms["half of the channels"] = Channels(criterion=criterion, fraction=0.5).apply(state, bench)
        for form, own in forms.items():
            error = compare(name if form == "float" else f"{name}, {form}", own, bench, model, runtime)
            if error is not None:
                errors[form].append(error)
    for form, found in errors.items():
        if found:
            middle, worst = statistics.median(map(abs, found)), max(found, key=abs)
            print(
                f"{form}: median |error| {100 * middle:.1f} % over {len(found)} nets, worst {100 * worst:+.1f} %"
            )


def _shape(build: dict[str, Any]) -> dict[str, str]:
    return {} if "shape" in build or "classes" in build else {"shape": "@shape", "classes": "@classes"}


if __name__ == "__main__":
    main()
