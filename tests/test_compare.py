"""`compressbench compare` from end to end, on tiny nets, functions and files of predictions."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compressbench
from compressbench.artefacts import told
from compressbench.comparing import fragility, inside, layers
from compressbench.comparing.inside import Executed, Held
from compressbench.errors import UserError

N, CLASSES = 240, 3


def data(tmp_path: Path, pictures: bool = False) -> Path:
    """Points (n, 8) of three classes, or colour pictures whose brightest channel is the class."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % CLASSES
    if pictures:
        x = rng.integers(100, 104, (N, 8, 8, 3), dtype=np.uint8)
        x[np.arange(N), :, :, y] += 5  # so little that an attack can turn it
        np.savez(tmp_path / "d.npz", images=x, y=y, light=np.where(np.arange(N) < N / 2, "dark", "bright"))
    else:
        x = rng.normal(size=(N, 8)).astype(np.float32)
        x[np.arange(N), y] += 2
        np.savez(tmp_path / "d.npz", x=x, y=y)
    return tmp_path / "d.npz"


def original(batch):
    return np.asarray(batch)[:, :CLASSES]


def without_class_two(batch):
    """Class 2 is never answered."""
    return original(batch) + np.array([0, 0, -50.0])


def test_two_functions_are_compared_from_python(tmp_path) -> None:
    account = compressbench.compare(original, without_class_two, data=data(tmp_path), quick=True)
    (found,) = account.comparisons
    arrays = np.load(tmp_path / "d.npz")
    one, two = original(arrays["x"]).argmax(1), without_class_two(arrays["x"]).argmax(1)
    assert found.loyalty.value == pytest.approx(100 * np.mean(one == two))
    assert found.accuracy.drop.value == pytest.approx(
        100 * (np.mean(one == arrays["y"]) - np.mean(two == arrays["y"]))
    )
    assert found.accuracy.verdict == "worse"
    assert found.findings[0].kind == "dead class"
    assert [
        g.name for g in found.by_class if g.change.value == min(g.change.value for g in found.by_class)
    ] == ["2"]
    assert account.names == ("original", "without_class_two")
    with pytest.raises(UserError, match="compare: unknown 'quik'; did you mean quick"):
        compressbench.compare(original, original, data=data(tmp_path), quik=True)


def test_a_module_and_the_same_with_dropout_left_on(tmp_path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def drops(batch):
        return net(nn.functional.dropout(torch.as_tensor(batch), 0.3)).detach().numpy()

    (found,) = compressbench.compare(net, drops, data=data(tmp_path), quick=True).comparisons
    assert "varies by calls" in [f.kind for f in found.findings[:2]]


def test_floors_are_of_the_reference_itself(tmp_path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    (found,) = compressbench.compare(net, original, data=data(tmp_path)).comparisons
    (floor,) = found.floors
    assert floor.name == "the reference against itself, weights rounded to fp16"
    x = torch.from_numpy(np.load(tmp_path / "d.npz")["x"])
    rounded = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    rounded.load_state_dict({n: t.half().float() for n, t in net.state_dict().items()})
    with torch.no_grad():
        same = (net(x).argmax(1) == rounded(x).argmax(1)).float().mean()
        p, q = net(x).double().softmax(1), rounded(x).double().softmax(1)
    assert floor.loyalty.value == pytest.approx(100 * float(same))
    middle = (p + q) / 2
    js = ((p * (p / middle).log() + q * (q / middle).log()).sum(1) / 2).clamp(min=0).sqrt()
    assert floor.probability_loyalty.value == pytest.approx(100 * float(1 - js.mean()), abs=1e-4)
    assert floor.probability_loyalty.value < 100


def predictions(tmp_path, scores, name, **more):
    np.savez(tmp_path / name, logits=scores, **more)
    return str(tmp_path / name)


def test_predictions_by_the_command(command, tmp_path) -> None:
    rng = np.random.default_rng(1)
    y, one = rng.integers(0, CLASSES, 400), rng.normal(size=(400, CLASSES))
    one[np.arange(400), y] += 2
    two = one + 0.2 * rng.normal(size=one.shape)
    paths = predictions(tmp_path, one, "a.npz", y=y), predictions(tmp_path, two, "b.npz")
    told_by = command(
        "compare", *paths, "--gate", "loyalty>=50,accuracy_drop<=20", "--json", str(tmp_path / "o.json"), "--junit",
        str(tmp_path / "o.xml"), "--csv", str(tmp_path / "o.csv"),
    )  # fmt: skip
    assert told_by.returncode == 0, told_by.stderr
    loyalty = 100 * np.mean(one.argmax(1) == two.argmax(1))
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["comparisons"][0]["figures"]["loyalty"]["other"]["value"] == pytest.approx(loyalty)
    assert len(ElementTree.parse(tmp_path / "o.xml").findall(".//testcase")) >= 2
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + int(
        (one.argmax(1) != two.argmax(1)).sum()
    )
    (folder,) = (tmp_path / "outputs" / "compared").iterdir()
    assert (folder / "compare.html").stat().st_size > 10_000
    assert f"{loyalty:.1f}" in told_by.stdout
    broken = command("compare", *paths, "--gate", "loyalty>=99.9")
    assert broken.returncode == 1
    assert "BROKEN: loyalty>=99.9" in " ".join(broken.stdout.split())
    assert command("gate", str(folder), "--min-loyalty", "50").returncode == 0
    again = command("compare", paths[0], paths[0])
    assert again.returncode == 0
    assert "are the same, byte by byte" in " ".join(again.stdout.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a.npz",), "a reference and one other at least"),
        (("a.npz", "nowhere.onnx"), "nowhere.onnx: no such file or folder"),
        (("a.npz", "nan.npz"), "all its answers are no numbers"),
        (("a.npz", "less.npz"), "answers 2 classes, the reference a.npz 3"),
        (("a.npz", "short.npz"), "has 100 rows"),
        (("a.npz", "b.npz", "--data", "empty"), "the folder is empty"),
        (("a.npz", "b.npz", "--gate", "loyality>=9"), "did you mean loyalty?"),
        (("a.npz", "b.npz", "--gate", ""), "--gate: no limit in ''"),
        (("a.npz", "b.npz", "--margin", "200"), "--margin 200"),
        (("a.npz", "b.npz", "--size", "big"), "--size 'big': pixels are wanted"),
        (("a.npz", "b.npz", "--range", "0-2"), "--range '0-2'"),
        (("a.npz", "x.gguf"), "GGUF"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, args, said) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(200, CLASSES))
    predictions(tmp_path, scores, "a.npz", y=rng.integers(0, CLASSES, 200))
    predictions(tmp_path, scores + 0.1, "b.npz")
    predictions(tmp_path, scores * np.nan, "nan.npz")
    predictions(tmp_path, scores[:, :2], "less.npz")
    predictions(tmp_path, scores[:100], "short.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    done = command("compare", *args)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# what the models themselves answer ------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """The mean of each channel, times ten; with a rounding that no gradient passes, if that is asked for."""

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x):
        x = (x * 255).round() / 255 if self.masked else x
        return 10 * x.mean(dim=(2, 3))


def test_a_masked_gradient_is_found(tmp_path) -> None:
    account = compressbench.compare(Pixels(), Pixels(True), data=data(tmp_path, True), preparation=_plain())
    (found,) = account.comparisons
    assert account.fragility.attacks[0].name == "clean"
    assert "gradients masked" in [f.kind for f in found.findings]
    assert set(found.by_group) == {"light"}


def _plain():
    from compressbench.artefacts.preparation import Preparation

    return Preparation()


def test_fragility_counts_by_hand() -> None:
    pictures = np.full((20, 4, 4, 1), 100, np.uint8)
    labels = np.zeros(20, np.int64)

    def brave(x):
        return np.tile([1.0, 0.0], (len(x), 1))

    def shy(x):
        changed = (x != 100).any(axis=(1, 2, 3))
        return np.where(changed[:, None], [0.0, 1.0], [1.0, 0.0])

    found = fragility.fragile(
        pictures, labels, ("brave", "shy"), (brave, shy), (None, None), ("logits", "logits")
    )
    clean, noise = found.trials[0], next(t for t in found.trials if t.kind == "noise")
    assert [e.value for e in clean.right] == [100, 100]
    assert [e.value for e in noise.right] == [100, 0]
    assert [e.value for e in found.worst] == [100, 0]
    assert len(found.said) == 2


def test_a_module_that_passes_no_gradient_is_attacked_by_queries_alone() -> None:
    class Whole(nn.Module):
        def forward(self, x):
            return (10 * x.mean(dim=(2, 3))).detach()

    pictures = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
    ask = lambda x: x.astype(float).mean(axis=(1, 2))  # noqa: E731
    found = fragility.fragile(pictures, None, ("a", "b"), (ask, ask), (Whole(), None), ("logits", "logits"))
    assert not any("PGD" in t.name for t in found.trials)
    assert [said.split()[0] for said in found.said] == ["b", "a"]


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES)).eval()


def test_the_noise_that_a_layer_makes_and_that_arrives() -> None:
    one, two = net(0), net(0)
    with torch.no_grad():
        two[0].weight.add_(0.01 * torch.randn_like(two[0].weight))
    x = torch.rand(4, 3, 8, 8)
    first, last = layers.of_modules(one, two, [x])
    with torch.no_grad():
        a, b = one[0](x), two[0](x)
    assert (
        first.made
        == first.arrived
        == pytest.approx(10 * np.log10(float(a.square().sum() / (a - b).square().sum())), abs=1e-3)
    )
    assert last.made == np.inf
    assert np.isfinite(last.arrived)


def test_onnx_layers_and_a_model_with_some_left_alone(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    one, two = net(0), net(0)
    with torch.no_grad():
        two[0].weight.mul_(1.1)
        two[3].weight.mul_(0.5)
    paths = []
    for name, each in (("a", one), ("b", two)):
        paths.append(tmp_path / f"{name}.onnx")
        torch.onnx.export(each, (torch.zeros(1, 3, 8, 8),), str(paths[-1]), input_names=["x"], dynamo=False)
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    found = layers.of_graphs(*paths, {"x": x})
    with torch.no_grad():
        given = nn.Flatten()(nn.ReLU()(one[0](torch.from_numpy(x))))
        first, second = one[3](given), two[3](given)
    noise = 10 * np.log10(float(first.square().sum() / (first - second).square().sum()))
    assert min(layer.made for layer in found) == pytest.approx(noise, abs=0.01)
    layers.left_alone(*paths, found, tmp_path / "mixed.onnx")
    mixed, whole = (told.read(str(p)).open().answers({"x": x}) for p in (tmp_path / "mixed.onnx", paths[0]))
    assert np.allclose(mixed, whole, atol=1e-5)
    layers.left_alone(
        *paths,
        [layer for layer in found if layer.made == min(each.made for each in found)],
        tmp_path / "last.onnx",
    )
    with torch.no_grad():
        want = one[3](nn.Flatten()(nn.ReLU()(two[0](torch.from_numpy(x))))).numpy()
    assert np.allclose(told.read(str(tmp_path / "last.onnx")).open().answers({"x": x}), want, atol=1e-5)


def test_what_files_hold() -> None:
    rng = np.random.default_rng(0)
    whole = {n: rng.normal(size=(64, 32)).astype(np.float32) for n in "abc"}
    reference = Held(whole, 1000)

    def kinds(**changes):
        return [
            f.kind for f in inside.odd_inside(reference, Held(**{"weights": whole, "bytes": 900, **changes}))
        ]

    assert kinds() == []
    assert kinds(weights=whole | {"b": 0 * whole["b"]}) == ["emptied layers"]
    cut = whole["c"].copy()
    cut[50:] = 0
    assert kinds(weights=whole | {"c": cut}) == ["weights cut off"]
    sparse = {n: np.where(rng.random(w.shape) < 0.6, 0, w) for n, w in whole.items()}
    assert kinds(weights=sparse, bytes=1000, sparse="its name") == ["zeros that save nothing"]
    assert kinds(weights=sparse, bytes=500, sparse="its name") == []
    assert kinds(weights=sparse, bytes=1000) == []
    integers = {n: (20 * w).astype(np.int8) for n, w in whole.items()}
    assert kinds(weights=integers, executed=Executed(("a", "b", "c"), ())) == []
    assert kinds(weights=integers, executed=Executed((), ("a", "b", "c"), ("a", "b", "c"))) == [
        "integers run as floats"
    ]
