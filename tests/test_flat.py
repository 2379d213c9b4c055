"""Training flat: SAM and ASAM around any optimiser, averaged weights; exact facts of FACTS section 8."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import short
from compressbench.errors import UserError
from compressbench.masks import masked
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.specs.conf import conf_dir
from compressbench.stages.prune import Prune
from compressbench.stages.rewind import LearningRate, Reinit, Weights
from compressbench.training.averagers import ema, swa
from compressbench.training.averaging import restated
from compressbench.training.sam import asam, sam, uphill
from compressbench.training.schedules import plateau
from compressbench.training.steppers import plain
from conftest import MLP, kill
from short import ADAM, SGD, same
from test_reparametrise import METHODS, method, ready

MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "width": 8,
        "shape": "@shape",
        "classes": "@classes",
    },
}
STEPPERS = sorted(p.stem for p in (conf_dir() / "stepper").glob("*.yaml"))
AVERAGERS = sorted(p.stem for p in (conf_dir() / "averager").glob("*.yaml"))


class Dropping(nn.Module):
    """A net that draws noise in training, with a batch norm."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.3)
        self.fc2 = nn.Linear(32, classes)

    def forward(self, x):
        return self.fc2(self.drop(self.norm(self.fc1(x.flatten(1))).relu()))


DROPPING = {
    "name": "dropping",
    "build": {"_target_": "test_flat.Dropping", "shape": "@shape", "classes": "@classes"},
}


def stepper(name: str, **changes):
    return {"_target_": f"compressbench.training.sam.{name}", "_partial_": True, **changes}


def averager(name: str, **changes):
    return {"_target_": f"compressbench.training.averagers.{name}", "_partial_": True, **changes}


train = functools.partial(short.train, length="24it", weight_decay=1e-2)


@dataclasses.dataclass
class Toy:
    """The gradient of any function of parameters, and how often it was asked for."""

    params: list[nn.Parameter]
    loss: object
    masked: tuple = ((), ())
    lanes: None = None
    calls: int = 0
    seen: list = dataclasses.field(default_factory=list)

    def __call__(self):
        self.calls += 1
        self.seen.append([p.detach().clone() for p in self.params])
        for p in self.params:
            p.grad = None
        loss = self.loss()
        loss.backward()
        return loss.detach()

    again = __call__


def test_gradient_of_sam_on_a_parabola() -> None:
    for start in (1.5, -0.25):
        w = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=1.0)
        a, rho = 3.0, 0.1
        toy = Toy([w], lambda w=w, a=a: (a * w**2 / 2).sum())
        loss = sam(nn.Module(), optimizer, rho)(toy)
        assert float(loss) == pytest.approx(a * start**2 / 2)
        assert float(start - w.detach()) == pytest.approx(
            a * (start + rho * (1 if start > 0 else -1)), rel=1e-12
        )
        assert toy.calls == 2


def test_sam_as_published_over_all_parameters_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)

    def made():
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        with torch.no_grad():
            for k, p in enumerate(net.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
        return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    for adaptive, make in ((False, sam), (True, asam)):
        (net, optimizer), (other, base) = made(), made()
        step = make(net, optimizer, 0.3)
        toy = Toy(list(net.parameters()), lambda net=net: nn.functional.cross_entropy(net(x), y))
        for _ in range(5):
            step(toy)
            base.zero_grad()
            nn.functional.cross_entropy(other(x), y).backward()
            scale = [p.detach().abs() if adaptive else torch.ones_like(p) for p in other.parameters()]
            norm = (
                sum(((s * p.grad) ** 2).sum() for s, p in zip(scale, other.parameters(), strict=True)) ** 0.5
            )
            old = [p.detach().clone() for p in other.parameters()]
            with torch.no_grad():
                for s, p in zip(scale, other.parameters(), strict=True):
                    p += 0.3 * s**2 * p.grad / norm
            base.zero_grad()
            nn.functional.cross_entropy(other(x), y).backward()
            with torch.no_grad():
                for p, before in zip(other.parameters(), old, strict=True):
                    p.copy_(before)
            base.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_move_has_length_rho_and_a_flat_place_has_none() -> None:
    params = [torch.randn(7), torch.randn(3, 4)]
    grads = [torch.randn(7), torch.randn(3, 4)]
    moves = uphill(params, grads, 0.7)
    assert float(torch.cat([m.flatten() for m in moves]).norm()) == pytest.approx(0.7, rel=1e-5)
    moves = uphill(params, grads, 0.7, adaptive=True)
    relative = torch.cat([(m / p).flatten() for m, p in zip(moves, params, strict=True)])
    assert float(relative.norm()) == pytest.approx(0.7, rel=1e-5)
    assert all(not m.any() for m in uphill(params, [torch.zeros(7), torch.zeros(3, 4)], 0.7))


def test_the_adaptive_move_follows_a_rescaling_and_the_plain_one_does_not() -> None:
    w, g = [torch.tensor([2.0, -3.0]), torch.tensor([0.5])], [torch.tensor([1.0, 0.2]), torch.tensor([-4.0])]
    scaled = [[4 * w[0], w[1] / 4], [g[0] / 4, 4 * g[1]]]
    one, other = uphill(w, g, 0.1, adaptive=True), uphill(*scaled, 0.1, adaptive=True)
    torch.testing.assert_close([4 * one[0], one[1] / 4], other)
    one, other = uphill(w, g, 0.1), uphill(*scaled, 0.1)
    assert not torch.allclose(4 * one[0], other[0])


@pytest.mark.parametrize("model", [MLP, RESNET, DROPPING], ids=["mlp", "resnet", "dropout"])
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", ["sam", "asam"])
def test_rho_0_is_the_base_optimizer_bit_by_bit(name, optimizer, model, bench) -> None:
    start = drawn(model, bench)
    base = train(length="12it", optimizer=optimizer, lr=0.01).apply(start, bench)
    wrapped = train(length="12it", optimizer=optimizer, lr=0.01, stepper=stepper(name, rho=0.0)).apply(
        start, bench
    )
    assert same(base.weights, wrapped.weights)
    flat = train(length="12it", optimizer=optimizer, lr=0.01, stepper=stepper(name, rho=0.5)).apply(
        start, bench
    )
    assert not same(base.weights, flat.weights)


def test_two_passes_and_statistics_of_the_first_alone(bench) -> None:
    start = drawn(RESNET, bench)
    plain_one = train(length="1it", lr=1e-30).apply(start, bench)
    flat = train(length="1it", lr=1e-30, stepper=stepper("sam", rho=1.0)).apply(start, bench)
    for name, weight in plain_one.weights.items():  # restored exactly; statistics taken once
        assert float((weight.double() - flat.weights[name].double()).abs().max()) < 1e-25, name
    assert not torch.equal(flat.weights["bn1.running_mean"], start.weights["bn1.running_mean"])
    assert flat.weights["bn1.num_batches_tracked"] == 1
    assert flat.facts["macs"] == 2 * plain_one.facts["macs"] > 0
    assert flat.facts["examples"] == plain_one.facts["examples"]


def test_masked_weights_are_neither_moved_nor_counted() -> None:
    w = nn.Parameter(torch.tensor([1.0, 0.0, 2.0]))
    mask = torch.tensor([1.0, 0.0, 1.0])
    slope = torch.tensor([3.0, 100.0, 4.0])
    toy = Toy([w], lambda: (slope * w).sum(), masked=([w], [mask]))
    sam(nn.Module(), torch.optim.SGD([w], lr=0.1), 1.0)(toy)
    torch.testing.assert_close(toy.seen[1][0] - toy.seen[0][0], torch.tensor([0.6, 0.0, 0.8]))


def test_pruned_nets_train_flat_and_stay_pruned(bench) -> None:
    pruned = Prune(MAGNITUDE, 0.7).apply(drawn(MLP, bench), bench)
    flat = train(stepper=stepper("sam")).apply(pruned, bench)
    for name, mask in pruned.masks.items():
        assert not flat.weights[name][~mask].any()
        assert (flat.weights[name][mask] != pruned.weights[name][mask]).any()


@pytest.mark.parametrize("name", METHODS)
def test_rho_0_is_the_base_with_every_reparametrisation(name, bench) -> None:
    """What a method observes or draws in a forward must not be observed or drawn twice."""
    start = ready(name, MLP, bench)
    base = train(reparametrise=method(name)).apply(start, bench)
    wrapped = train(reparametrise=method(name), stepper=stepper("sam", rho=0.0)).apply(start, bench)
    assert base.tensors.keys() == wrapped.tensors.keys()
    for group, named in base.tensors.items():
        assert same(named, wrapped.tensors[group]), group


def read(group: str, name: str):
    spec = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text())
    # averagers of epochs and slow memories: as if the training were long
    return {**spec, **{k: v for k, v in (("every", "3it"), ("decay", 0.8)) if k in spec}}


@pytest.mark.parametrize(
    ("group", "name"), [("stepper", n) for n in STEPPERS] + [("averager", n) for n in AVERAGERS]
)
def test_every_stepper_and_averager_twice_in_halves_and_after_a_kill(
    group, name, bench, tmp_path: Path
) -> None:
    start, settings = drawn(DROPPING, bench), {group: read(group, name)}
    whole, again = (train(**settings).apply(start, bench) for _ in range(2))
    assert same(whole.weights, again.weights)
    assert all(bool(torch.isfinite(w).all()) for w in whole.weights.values())
    bench.name = "first"
    first = train(stop="21it", **settings).apply(start, bench)
    second = train(start="21it", **settings).apply(first, bench)
    assert same(whole.weights, second.weights)
    assert not second.group("average")
    assert whole.facts["macs"] == second.facts["macs"]

    kill(train(**settings), start, bench, tmp_path, at=22)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    resumed = train(**settings).apply(start, dataclasses.replace(bench, checkpoints=tmp_path))
    assert same(whole.weights, resumed.weights)
    assert whole.facts["macs"] == resumed.facts["macs"]


def test_swa_is_the_mean_of_the_weights_it_takes(bench) -> None:
    start = drawn(MLP, bench)
    parts = [train(stop=f"{k}it").apply(start, bench) for k in (18, 20, 22)]
    parts.append(train().apply(start, bench))
    averaged = train(averager=averager("swa", every="2it")).apply(start, bench)
    for name, weight in averaged.weights.items():
        mean = torch.stack([p.weights[name].double() for p in parts]).mean(0)
        torch.testing.assert_close(weight.double(), mean, rtol=1e-5, atol=1e-6)
    alone = train(averager=averager("swa", start=1.0)).apply(start, bench)
    assert same(alone.weights, parts[-1].weights)


def test_statistics_of_an_average_are_those_of_the_training_set(bench) -> None:
    start = drawn(RESNET, bench)
    averaged = train(averager=averager("swa", every="2it")).apply(start, bench)
    module, seen = module_of(averaged), []
    module.conv1.register_forward_hook(lambda _, i, o: seen.append(o.detach()))
    with torch.no_grad():
        for batch in bench.feed("train").batches(256):
            forward(module, *bench.task.encode(batch))
    mean = torch.cat(seen).mean((0, 2, 3))
    torch.testing.assert_close(averaged.weights["bn1.running_mean"], mean, rtol=1e-3, atol=1e-4)
    spare = averaged.facts["macs"] - train().apply(start, bench).facts["macs"]
    assert spare == len(bench.feed("train")) * start.facts["forward_macs"]


@pytest.mark.parametrize("name", METHODS)
def test_statistics_of_an_average_are_those_of_the_finished_net(name, bench) -> None:
    start = ready(name, RESNET, bench)
    averaged = train(reparametrise=method(name), averager=averager("ema", decay=0.5)).apply(start, bench)
    module = module_of(averaged)
    restated(module, bench.feed("train"), bench.task.encode)
    for norm in ("bn1", "layer3.0.bn2"):
        for part in ("running_mean", "running_var"):
            if f"{norm}.{part}" not in averaged.weights:  # folded into its convolution
                continue
            own, anew = averaged.weights[f"{norm}.{part}"], module.state_dict()[f"{norm}.{part}"]
            torch.testing.assert_close(own, anew, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [2, 257, 258, 300, 700])
def test_statistics_of_sets_of_any_size(count, bench) -> None:
    feed = bench.feed("train")
    few = feed.head(count)
    x = bench.task.normalised(few["images"]).flatten(1)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    assert restated(net, few, bench.task.encode) == count
    torch.testing.assert_close(net[1].running_mean, x.mean(0), rtol=1e-2, atol=1e-2)
    varied = x.var(0) > 1e-3
    torch.testing.assert_close(net[1].running_var[varied], x.var(0)[varied], rtol=0.15, atol=0.02)
    assert net[1].momentum == 0.1
    kept = nn.InstanceNorm2d(1, track_running_stats=True)
    restated(kept, few, bench.task.encode)
    torch.testing.assert_close(
        kept.running_mean, bench.task.normalised(few["images"]).mean((0, 2, 3)), rtol=1e-2, atol=1e-2
    )
    assert restated(nn.Flatten(), few, bench.task.encode) == 0


def test_an_average_goes_where_the_training_goes(bench) -> None:
    start, settings = drawn(DROPPING, bench), {"averager": averager("ema", decay=0.8)}
    whole = train(**settings).apply(start, bench)
    first = train(stop="15it", **settings).apply(start, bench)
    assert first.group("average")
    trained = train().apply(start, bench)
    bench = dataclasses.replace(bench, references={"first": first})
    rewound = Weights(to="first").apply(trained, bench)
    assert same(train(start="15it", **settings).apply(rewound, bench).weights, whole.weights)
    pruned = Prune(MAGNITUDE, 0.5).apply(first, bench)
    for left in (LearningRate().apply(first, bench), Reinit().apply(first, bench), pruned):
        assert not any(left.group(name) for name in ("average", "optimizer", "objective"))
    for other in ({"averager": averager("swa", every="2it")}, {}):
        with pytest.raises(UserError, match=r"start: the state before was left by .*averagers.ema"):
            train(start="15it", **other).apply(first, bench)


class Taken(nn.Module):
    """A net with a parameter of an awkward name."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc, self.taken = nn.Linear(64, classes), nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return self.fc(x.flatten(1)) + self.taken


def test_any_name_of_a_parameter_will_do(bench) -> None:
    model = {"name": "t", "build": {"_target_": "test_flat.Taken", "shape": "@shape", "classes": "@classes"}}
    start, settings = drawn(model, bench), {"averager": averager("ema", decay=0.8)}
    first = train(stop="15it", **settings).apply(start, bench)
    whole = train(**settings).apply(start, bench)
    assert same(train(start="15it", **settings).apply(first, bench).weights, whole.weights)


def asking_again(module, optimizer):
    """A stepper that doesn't say that it asks twice."""

    def step(gradient):
        loss = gradient()
        gradient.again()
        optimizer.step()
        return loss

    return step


def test_a_stepper_that_asks_twice_has_to_say_so(bench) -> None:
    spec = {"_target_": "test_flat.asking_again", "_partial_": True}
    with pytest.raises(UserError, match="needs an attribute passes"):
        train(stepper=spec).apply(drawn(MLP, bench), bench)
    for name in ("averagers.swa", "sam.uphill"):
        spec = {"_target_": f"compressbench.training.{name}", "_partial_": True}
        with pytest.raises(
            UserError, match=f"stepper:? compressbench.training.{name}.*(missing|is no stepper)"
        ):
            train(stepper=spec).apply(drawn(MLP, bench), bench)


def test_an_average_keeps_masks(bench) -> None:
    pruned = Prune(MAGNITUDE, 0.7).apply(drawn(RESNET, bench), bench)
    averaged = train(averager=averager("ema", decay=0.5)).apply(masked(pruned, pruned.masks), bench)
    for name, mask in pruned.masks.items():
        assert not averaged.weights[name][~mask].any()


def test_which_weights_an_averager_takes() -> None:
    taken = [s for s in range(1, 101) if swa(s, 100, 10, 0) is not None]
    assert taken == [80, 90, 100]
    assert [swa(100, 100, 10, n) for n in range(3)] == [1, 1 / 2, 1 / 3]
    assert [s for s in range(1, 11) if swa(s, 10, 4, 0, start=0.5, every="2it")] == [6, 8, 10]
    assert ema(1, 10, 5, 0) == 1.0
    assert ema(500, 1000, 5, 100000, decay=0.99) == pytest.approx(0.01)
    assert ema(2, 10, 5, 1, decay=0.999) == pytest.approx(1 - 2 / 11)
    assert [plateau(x, 0.5, 0.5) for x in (0.5, 0.51)] == [1.0, 0.5]
    with pytest.raises(UserError, match=r"averager.every: 0.01ep is less than one iteration \(10 an epoch\)"):
        swa(100, 100, 10, 0, every="0.01ep")
    assert [plateau(x) for x in (0, 0.5, 0.7, 0.9, 1)] == pytest.approx([1, 1, 0.75, 0.5, 0.5])


class Searching(torch.optim.SGD):
    """An optimiser that asks for the loss itself."""

    def step(self, closure):  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize("make", [plain, sam, asam])
def test_an_optimizer_that_asks_for_the_loss_itself_is_refused(make) -> None:
    w = nn.Parameter(torch.ones(1))
    with pytest.raises(UserError, match="Searching, which evaluates the loss itself by a closure"):
        make(nn.Module(), Searching([w], lr=0.1))
    make(nn.Module(), torch.optim.SGD([w], lr=0.1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+stepper@STAGE.stepper=sam", "STAGE.stepper.rho=-0.1"], "rho: -0.1 is not a number of 0 or more"),
        (["+stepper@STAGE.stepper=asam", "STAGE.stepper.rho=nan"], "rho: nan is not a finite number"),
        (["+averager@STAGE.averager=swa", "STAGE.averager.every=often"], "every: 'often' is no length"),
        (["+averager@STAGE.averager=swa", "STAGE.averager.start=1.5"], "start: 1.5 is not in [0, 1]"),
        (["STAGE.averager=swa"], "choose it by its YAML: +averager@STAGE.averager=swa"),
        (["STAGE.stepper=sam"], "choose it by its YAML: +stepper@STAGE.stepper=sam"),
        (["STAGE.optimizer._target_=torch.optim.LBFGS"], "LBFGS"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(command, arguments, words) -> None:
    stage = "recipe.stages.dense"
    found = command("run", "recipe=one_shot", "scale=smoke", *(a.replace("STAGE", stage) for a in arguments))
    assert found.returncode == 2
    assert words.replace("STAGE", stage) in found.stderr
    assert "Traceback" not in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
