"""Pairs of artefacts for ``compressbench compare``: one planted defect each, or none; made as users make them.

A small convolutional net on pictures of clothes in colour: the embedded Fashion-MNIST at 14 x 14 pixels, dyed. A class
has its own colours, loosely, so that swapped channels show; two fifths of the pictures are dark, a few are black.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from compressbench.artefacts.preparation import Preparation
from compressbench.data.idx import fashion_mnist

CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "boot")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINED, TESTED, BLACK, BATCH = 8000, 1500, 12, 64
OPSET = 17


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 (n, 14, 14, 3), labels (n,), and which are dark."""

    images: np.ndarray
    labels: np.ndarray
    light: np.ndarray

    @property
    def fed(self) -> Tensor:
        """Float (n, 3, 14, 14), normalised."""
        found = torch.from_numpy(np.ascontiguousarray(self.images)).permute(0, 3, 1, 2) / 255
        return ((found - _column(MEAN)) / _column(STD)).contiguous()

    def save(self, path: Path) -> Path:
        """As a user keeps them."""
        np.savez(path, images=self.images, labels=self.labels, light=self.light, classes=np.array(CLASSES))
        return path


def pictures(split: Any, n: int, seed: int, black: int = 0) -> Pictures:
    """The first ``n`` pictures of a split, dyed; the last ``black`` of them are black."""
    grey, labels = split["images"][:n].reshape(n, 14, 2, 14, 2).mean(axis=(2, 4)) / 255, split.labels[:n]
    drawn = np.random.default_rng(seed)
    hue = (labels * 0.1 + drawn.normal(0, 0.12, n)) % 1
    dye = 0.62 + 0.38 * np.cos(2 * np.pi * (hue[:, None] - np.array([0, 1 / 3, 2 / 3])))
    dark = drawn.random(n) < 0.4
    bright = np.where(dark, drawn.uniform(0.2, 0.35, n), drawn.uniform(0.7, 1.0, n))
    made = (0.08 + 0.85 * grey[..., None] * dye[:, None, None]) * bright[:, None, None, None]
    made += drawn.normal(0, 0.03, made.shape)
    images = (made.clip(0, 1) * 255).round().astype(np.uint8)
    if black:
        images[-black:], dark[-black:] = 0, True
    return Pictures(images, labels.astype(np.int64), np.where(dark, "dark", "bright"))


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


# nets -----------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions beside nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """A residual net of 50,000 parameters or so, (n, 3, 14, 14) to logits (n, 10)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.down1, self.bn1 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.block1 = Block(2 * width)
        self.down2, self.bn2 = nn.Conv2d(2 * width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.block2 = Block(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.block1(F.relu(self.bn1(self.down1(x))))
        x = self.block2(F.relu(self.bn2(self.down2(x))))
        return self.fc(x.mean(dim=(2, 3)))


def trained(
    data: Pictures,
    seed: int,
    epochs: int = 3,
    start: nn.Module | None = None,
    rate: float = 0.003,
    teacher: nn.Module | None = None,
    masks: dict[str, Tensor] | None = None,
    width: int = 12,
) -> nn.Module:
    """A net trained on them; from another one on, towards a teacher's answers, or with weights held at zero by masks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = (Net(width) if start is None else copy.deepcopy(start)).requires_grad_(True)
        x, y = data.fed, torch.from_numpy(data.labels)
        soft = None
        if teacher is not None:
            with torch.no_grad():
                soft = torch.cat([teacher(part) for part in x.split(500)])
        steps = epochs * (len(x) // BATCH)
        optimizer = torch.optim.Adam(net.parameters(), rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
        net.train()
        rows = torch.cat([torch.randperm(len(x)) for _ in range(epochs + 1)])
        for step in range(steps):
            some = rows[step * BATCH : (step + 1) * BATCH]
            logits = net(x[some])
            loss = F.cross_entropy(logits, y[some])
            if soft is not None:
                loss = loss * 0.3 + 0.7 * 4 * F.kl_div(
                    F.log_softmax(logits / 2, 1),
                    F.log_softmax(soft[some] / 2, 1),
                    reduction="batchmean",
                    log_target=True,
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if masks:
                with torch.no_grad():
                    for name, mask in masks.items():
                        net.get_parameter(name).mul_(mask)
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        return net.eval()


def logits(net: nn.Module, data: Pictures) -> np.ndarray:
    """(n, 10)."""
    with torch.inference_mode():
        return torch.cat([net(part) for part in data.fed.split(500)]).numpy()


# the workshop ---------------------------------------------------------------------------------------------------------


GIVEN = Preparation(mean=MEAN, std=STD)
"""How pictures are prepared where a net doesn't do it itself."""
Maker = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """What is compared: the reference, and the other one."""

    reference: Any
    other: Any
    preparation: Preparation = GIVEN
    quick: bool = True


@dataclass
class Workshop:
    """Where artefacts are made: a folder, pictures, nets that are trained when they are first asked for."""

    folder: Path
    kept: dict[str, nn.Module] = field(default_factory=dict)

    @cached_property
    def train(self) -> Pictures:
        """8,000 of them."""
        return pictures(fashion_mnist().train, TRAINED, 0)

    @cached_property
    def test(self) -> Pictures:
        """1,500, the last 12 black."""
        return pictures(fashion_mnist().test, TESTED, 1, BLACK)

    @cached_property
    def data(self) -> Path:
        """The test pictures as a file."""
        return self.test.save(self.folder / "clothes.npz")

    def net(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """One that is trained once."""
        if name not in self.kept:
            self.kept[name] = make()
        return copy.deepcopy(self.kept[name])

    @property
    def dense(self) -> nn.Module:
        """The reference."""
        return self.net("dense", lambda: trained(self.train, 0))

    @cached_property
    def original(self) -> Path:
        """The reference as ONNX."""
        return self.export(self.dense, "original.onnx")

    def export(self, net: nn.Module, name: str, **further: Any) -> Path:
        """A net as torch writes it."""
        path = self.folder / name
        torch.onnx.export(
            net.eval(), (torch.zeros(2, 3, 14, 14),), str(path), dynamo=False, opset_version=OPSET,
            input_names=["input"], output_names=["logits"],
            dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}}, **further,
        )  # fmt: skip
        return path

    def edited(self, name: str, edit: Callable[[onnx.GraphProto], None], source: Path | None = None) -> Path:
        """A graph with one thing changed."""
        model = onnx.load(str(source or self.original))
        edit(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, str(self.folder / name))
        return self.folder / name

    def predicted(self, name: str, scores: np.ndarray) -> Path:
        """A file of predictions."""
        np.save(self.folder / name, scores)
        return self.folder / name


def weight(graph: onnx.GraphProto, node: str) -> onnx.TensorProto:
    """The weight of the first layer whose name holds a text."""
    found = next(n for n in graph.node if node in n.name and n.op_type in ("Conv", "Gemm"))
    return next(i for i in graph.initializer if i.name == found.input[1])


def change(
    graph: onnx.GraphProto, node: str, how: Callable[[np.ndarray], np.ndarray], bias: bool = False
) -> None:
    """One layer's weight, and its bias too, becomes something else."""
    layer = next(n for n in graph.node if node in n.name and n.op_type in ("Conv", "Gemm"))
    for name in layer.input[1 : 3 if bias else 2]:
        tensor = next(i for i in graph.initializer if i.name == name)
        made = np.ascontiguousarray(how(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(made.astype(np.float32), name))


def before(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> None:
    """Puts nodes from ``input`` to ``ready`` in front."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "input":
                node.input[place] = "ready"
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in tensors.items())


class Inside(nn.Module):
    """A net that normalises pictures in [0, 1] itself."""

    def __init__(self, net: nn.Module, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", _column(mean))
        self.register_buffer("std", _column(std))

    def forward(self, x: Tensor) -> Tensor:
        """Of pictures in [0, 1]."""
        return self.net((x - self.mean) / self.std)


class Calibration:
    """What onnxruntime's tool asks for pictures."""

    def __init__(self, data: Pictures, rows: Sequence[int]) -> None:
        fed = data.fed.numpy()
        self.left = iter([{"input": fed[r : r + 1]} for r in rows])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one."""
        return next(self.left, None)


def quantized(w: Workshop, name: str, rows: Sequence[int], per_channel: bool = True, **further: Any) -> Path:
    """The reference quantized by onnxruntime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    reader = type("Reader", (Calibration, CalibrationDataReader), {})(w.train, rows)
    quantize_static(
        str(w.original),
        str(w.folder / name),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        **further,
    )
    return w.folder / name


# defects --------------------------------------------------------------------------------------------------------------


def dead_class(w: Workshop) -> Pair:
    """The last layer's row of a class is lost, and its bias is low."""

    def edit(g: onnx.GraphProto) -> None:
        def dead(a: np.ndarray) -> np.ndarray:
            a[7] = -20 if a.ndim == 1 else a[7]
            return a

        change(g, "fc", dead, bias=True)

    return Pair(w.original, w.edited("dead.onnx", edit))


def recall(w: Workshop) -> Pair:
    """A fifth of one class's right answers is lost, and as many are won elsewhere: a phone's predictions."""
    scores, labels = logits(w.dense, w.test), w.test.labels
    other = scores + np.random.default_rng(0).normal(0, 0.02, scores.shape).astype(np.float32)
    right = scores.argmax(1) == labels
    lost = np.flatnonzero(right & (labels == 5))[: round(0.2 * (labels == 5).sum())]
    won = np.flatnonzero(~right & (labels != 5))[: len(lost)]
    second = other.argsort(1)[:, -2]
    other[lost, 5] = other[lost, second[lost]] - 0.3
    other[won, labels[won]] = other[won].max(1) + 0.3
    return Pair(w.original, w.predicted("phone.npy", other))


def swapped(w: Workshop) -> Pair:
    """Two rows of the last layer are swapped."""

    def edit(g: onnx.GraphProto) -> None:
        order = np.arange(10)
        order[[2, 8]] = 8, 2
        change(g, "fc", lambda a: a[order], bias=True)

    return Pair(w.original, w.edited("swapped.onnx", edit))


class Rounding(nn.Module):
    """Rounds pictures to few levels, through which no gradient goes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net((x * 24).round() / 24)


def masked(w: Workshop) -> Pair:
    """A layer in front that gives no gradient."""
    return Pair(w.dense, Rounding(w.dense), quick=False)


def floating(w: Workshop) -> Pair:
    """Weights of integers that are multiplied as floats."""

    def edit(g: onnx.GraphProto) -> None:
        made = []
        for node in [n for n in g.node if n.op_type in ("Conv", "Gemm")]:
            held = next(i for i in g.initializer if i.name == node.input[1])
            value = numpy_helper.to_array(held)
            scale = np.float32(np.abs(value).max() / 127)
            g.initializer.remove(held)
            name = held.name
            g.initializer.extend([
                numpy_helper.from_array((value / scale).round().astype(np.int8), f"{name}_quantized"),
                numpy_helper.from_array(scale, f"{name}_scale"),
                numpy_helper.from_array(np.int8(0), f"{name}_zero_point"),
            ])  # fmt: skip
            parts = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
            made.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}_dq"))
        rest = list(g.node)
        del g.node[:]
        g.node.extend([*made, *rest])

    return Pair(w.original, w.edited("int8_qdq.onnx", edit))


def zeroed(w: Workshop) -> Pair:
    """A convolution beside a shortcut is all zero."""
    return Pair(w.original, w.edited("zeroed.onnx", lambda g: change(g, "block1/conv2", np.zeros_like)))


def wrong_mean(w: Workshop) -> Pair:
    """Both normalise inside; one with CIFAR-10's numbers, where ImageNet's were meant."""
    other = Inside(w.dense, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return Pair(w.export(Inside(w.dense), "own.onnx"), w.export(other, "other_mean.onnx"), Preparation())


def bgr(w: Workshop) -> Pair:
    """The first layer wants blue first."""
    return Pair(w.original, w.edited("bgr.onnx", lambda g: change(g, "stem", lambda a: a[:, ::-1])))


def training(w: Workshop) -> Pair:
    """Batch norm takes the batch's own mean: somebody forgot ``eval()``."""
    net = w.dense.train()

    def answers(x: np.ndarray) -> Tensor:
        net.train()
        with torch.inference_mode():
            return net(torch.from_numpy(x))

    return Pair(w.original, answers)


def by_batch(w: Workshop) -> Pair:
    """Scores have the batch's mean taken off."""
    net = w.dense

    def answers(x: np.ndarray) -> Tensor:
        with torch.inference_mode():
            found = net(torch.from_numpy(x))
        return found - 0.5 * found.mean(0, keepdim=True)

    return Pair(w.original, answers)


def truncated(w: Workshop) -> Pair:
    """A file that was cut off in the middle of a layer and filled up with zeros."""

    def cut(a: np.ndarray) -> np.ndarray:
        a.reshape(-1)[int(0.7 * a.size) :] = 0
        return a

    return Pair(w.original, w.edited("cut.onnx", lambda g: change(g, "block2/conv1", cut)))


def saturated(w: Workshop) -> Pair:
    """A layer's output runs into an end of its range."""

    def edit(g: onnx.GraphProto) -> None:
        relu = [n for n in g.node if n.op_type == "Relu"][3]
        name = relu.output[0]
        relu.output[0] = f"{name}_open"
        g.initializer.extend([numpy_helper.from_array(np.float32(v), f"end{v}") for v in (0, 0.5)])
        place = list(g.node).index(relu)
        rest = list(g.node)
        del g.node[:]
        clip = helper.make_node("Clip", [f"{name}_open", "end0", "end0.5"], [name], name="clip")
        g.node.extend([*rest[: place + 1], clip, *rest[place + 1 :]])

    return Pair(w.original, w.edited("saturated.onnx", edit))


def temperature(w: Workshop) -> Pair:
    """Logits are ten times as large."""
    return Pair(w.original, w.edited("hot.onnx", lambda g: change(g, "fc", lambda a: a * 10, bias=True)))


class Halves(nn.Module):
    """A net in float16, called with float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.half()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32."""
        return self.net(x.half()).float()


def overflow(w: Workshop) -> Pair:
    """float16, in which a layer of large values overflows for bright pictures; in float32 it gives the same answers."""
    net, seen = w.dense, []
    handle = net.block1.bn1.register_forward_hook(lambda m, x, y: seen.append(y.amax(dim=(1, 2, 3))))
    logits(net, w.test)
    handle.remove()
    scale = 65504 / float(torch.cat(seen).quantile(0.7))
    net.block1.bn1.weight.mul_(scale), net.block1.bn1.bias.mul_(scale), net.block1.conv2.weight.div_(scale)
    return Pair(w.dense, Halves(net))


def dark_lost(w: Workshop) -> Pair:
    """What is dark is taken for black."""
    low = [(0.2 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    floor = [-m / s for m, s in zip(MEAN, STD, strict=True)]
    nodes = [
        helper.make_node("Greater", ["input", "low"], ["lit"], name="lit"),
        helper.make_node("Where", ["lit", "input", "floor"], ["ready"], name="where"),
    ]
    tensors = {n: np.array(v).reshape(1, 3, 1, 1) for n, v in (("low", low), ("floor", floor))}
    return Pair(w.original, w.edited("threshold.onnx", lambda g: before(g, nodes, tensors)))


def one_picture(w: Workshop) -> Pair:
    """int8, calibrated with one dark picture."""
    dark = np.flatnonzero(w.train.light == "dark")[0]
    return Pair(w.original, quantized(w, "int8_one.onnx", [int(dark)]))


def shifted(w: Workshop) -> Pair:
    """The last layer's rows are one further on."""
    return Pair(
        w.original, w.edited("offset.onnx", lambda g: change(g, "fc", lambda a: np.roll(a, 1, 0), bias=True))
    )


def dropout(w: Workshop) -> Pair:
    """Dropout was left on."""
    net = w.dense

    def answers(x: np.ndarray) -> Tensor:
        with torch.inference_mode():
            kept = []
            handle = net.fc.register_forward_pre_hook(lambda m, a: (F.dropout(a[0], 0.2, training=True),))
            kept.append(net(torch.from_numpy(x)))
            handle.remove()
        return kept[0]

    return Pair(w.original, answers)


class Even(nn.Module):
    """Divides pictures by their own brightness, and takes that back in the end."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", _column(MEAN))
        self.register_buffer("std", _column(STD))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        own = ((x * self.std + self.mean) * 255).round()
        level = own.mean(dim=(1, 2, 3), keepdim=True)
        return self.net((own / level * level / 255 - self.mean) / self.std)


def black(w: Workshop) -> Pair:
    """Pictures are divided by their brightness, which is 0 of a black one."""
    return Pair(w.dense, Even(w.dense))


def left_in_float(w: Workshop) -> Pair:
    """int8, but for a layer in the middle, which is the heaviest."""
    nodes = [n.name for n in onnx.load(str(w.original)).graph.node if "block1/conv1" in n.name]
    return Pair(w.original, quantized(w, "int8_most.onnx", range(64), nodes_to_exclude=nodes))


DEFECTS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "one class dead": (dead_class, ("dead class",)),
    "one class's recall down, accuracy unchanged": (recall, ("class sandal",)),
    "two classes swapped": (swapped, ("swapped classes",)),
    "masked gradient": (masked, ("gradients masked",)),
    "QDQ in float": (floating, ("integers run as floats",)),
    "zeroed layer": (zeroed, ("emptied layers",)),
    "wrong mean and std": (wrong_mean, ("preprocessing",)),
    "BGR": (bgr, ("preprocessing",)),
    "batch norm in training mode": (training, ("varies by batch", "varies by neighbours")),
    "batch-dependent output": (by_batch, ("varies by batch", "varies by neighbours")),
    "truncated weights": (truncated, ("weights cut off",)),
    "saturated activations": (saturated, ("saturated layers",)),
    "temperature tenfold": (temperature, ("other temperature",)),
    "float16 overflow on bright pictures": (overflow, ("not finite",)),
    "sub-group lost": (dark_lost, ("light dark",)),
    "one calibration image": (one_picture, ("saturated layers", "saturated")),
    "offset by one class": (shifted, ("class offset",)),
    "dropout left on": (dropout, ("varies by calls",)),
    "NaN for black pictures": (black, ("not finite",)),
    "a layer left in float": (left_in_float, ("layers left in float",)),
}
"""What is planted -> how it is made, and the kinds of finding that name it, or the group that pays."""


# honest ones ----------------------------------------------------------------------------------------------------------


def half(w: Workshop) -> Pair:
    """float16 by onnxruntime's own tool."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made = convert_float_to_float16(onnx.load(str(w.original)), keep_io_types=True)
    onnx.save(made, str(w.folder / "fp16.onnx"))
    return Pair(w.original, w.folder / "fp16.onnx")


def per_channel(w: Workshop) -> Pair:
    """int8 by onnxruntime's own tool, calibrated on 256 pictures."""
    return Pair(w.original, quantized(w, "int8.onnx", range(256)))


def per_tensor(w: Workshop) -> Pair:
    """The same with one scale for each layer; the first and the last layer are left in float by choice."""
    ends = [n.name for n in onnx.load(str(w.original)).graph.node if "stem" in n.name or "fc" in n.name]
    return Pair(w.original, quantized(w, "int8_tensor.onnx", range(256), False, nodes_to_exclude=ends))


def openvino(w: Workshop) -> Pair:
    """Converted by OpenVINO's own tool, weights in float16 as it does by default."""
    import openvino

    openvino.save_model(openvino.convert_model(str(w.original)), str(w.folder / "model.xml"))
    return Pair(w.original, w.folder / "model.xml")


def folded(w: Workshop) -> Pair:
    """Batch norms folded into convolutions."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = w.dense
    for part, conv, norm in [
        (net, "stem", "bn"), (net, "down1", "bn1"), (net, "down2", "bn2"),
        *((block, f"conv{k}", f"bn{k}") for block in (net.block1, net.block2) for k in (1, 2)),
    ]:  # fmt: skip
        setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
        setattr(part, norm, nn.Identity())
    return Pair(w.dense, net)


def smallest(net: nn.Module, share: float) -> dict[str, Tensor]:
    """Masks that take a share of each convolution's weights, but the first one's, away."""
    found = {}
    for name, value in net.named_parameters():
        if value.ndim == 4 and "stem" not in name:
            found[name] = (
                value.abs() > value.abs().flatten().kthvalue(int(share * value.numel())).values
            ).float()
    return found


def pruned(w: Workshop) -> Pair:
    """Half of the weights pruned, and trained on."""
    net = w.net("pruned", lambda: trained(w.train, 3, 2, w.dense, 0.001, masks=smallest(w.dense, 0.5)))
    return Pair(w.original, w.export(net, "pruned.onnx"))


def distilled(w: Workshop) -> Pair:
    """Another net that learned from its answers."""
    net = w.net("distilled", lambda: trained(w.train, 5, 5, teacher=w.dense))
    return Pair(w.original, w.export(net, "student.onnx"))


def retrained(w: Workshop) -> Pair:
    """Trained again with another seed."""
    return Pair(w.dense, w.net("retrained", lambda: trained(w.train, 1)))


def tuned(w: Workshop) -> Pair:
    """Trained a little further."""
    return Pair(w.original, w.net("tuned", lambda: trained(w.train, 2, 1, w.dense, 0.0003)))


def again(w: Workshop) -> Pair:
    """Exported twice, once with batch norms of its own and without anything folded."""
    mode = torch.onnx.TrainingMode.PRESERVE
    return Pair(w.original, w.export(w.dense, "again.onnx", do_constant_folding=False, training=mode))


HONEST: dict[str, Maker] = {
    "float16": half,
    "int8 by channel": per_channel,
    "int8 by tensor, ends in float": per_tensor,
    "OpenVINO": openvino,
    "folded batch norm": folded,
    "pruned and fine-tuned": pruned,
    "distilled": distilled,
    "retrained": retrained,
    "trained further": tuned,
    "exported twice": again,
}
