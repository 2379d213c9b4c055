"""Random deletion: what is gone is exactly gone, and as much as was said; dropout in training is what it should be."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from compressbench.bench import Bench
from compressbench.checking.probes import check_probe
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.probes.deletion import Deletion
from compressbench.pruning.deleting import first, hidden_units, without_units, without_weights
from compressbench.pruning.unstructured import prune
from compressbench.records import Metric
from compressbench.stages.prune import Prune
from compressbench.stages.shrink import Channels
from compressbench.state import State
from compressbench.training.reparametrise import layers
from compressbench.views import View
from conftest import MLP
from test_reparametrise import method, on
from test_structured import SPECS
from tiny import TINY

CONV = {"name": "conv_2", "build": SPECS["conv_2"]}
LINEAR = {
    "name": "linear",
    "build": {**MLP["build"], "hidden": []},
}
RANDOM = {"_target_": "compressbench.criteria.random.random", "_partial_": True}


@pytest.fixture(scope="module")
def bench(digits) -> Bench:
    """A bench whose runs have the seed 5."""
    return Bench(digits, seed=5, name="init")


def with_biases(state: State, seed: int = 0) -> State:
    """The state with biases drawn instead of 0, norms not neutral, so that none of them is nothing by chance."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        n: t
        if t.ndim > 1 or not t.is_floating_point()
        else t + 0.5 * torch.rand(t.shape, generator=generator)
        for n, t in state.weights.items()
    }
    return state.with_groups(weights=weights)


def told(state: State, bench: Bench, **settings) -> dict[tuple[str, str], Metric]:
    """What the probe yields, by metric and group."""
    view = View(state, bench, "net")
    return {(m.name, m.group): m for m in Deletion(**settings).measure(view, view, bench)}


def accuracy(found: dict[tuple[str, str], Metric], group: str) -> float:
    value = found["deletion_accuracy", group].value
    assert value is not None
    return value


# dropout


def seen_by(module: nn.Module, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The input that a layer really gets, behind all hooks so far."""
    found: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    with torch.no_grad():
        module(x)
    handle.remove()
    return found[0]


def test_dropout_scales_what_stays_by_the_inverse_and_is_off_in_evaluation(bench: Bench) -> None:
    module, _ = on(drawn(MLP, bench), bench, method("dropout", p=0.2))
    x = torch.rand(64, *bench.task.shape, generator=torch.Generator().manual_seed(0))
    layer = module.hidden[2]
    whole = torch.relu(
        module.hidden[0](x.flatten(1))
    ).detach()  # the first layer's own inputs are never dropped
    torch.manual_seed(0)
    found = seen_by(module, layer, x)
    stays = found != 0
    assert torch.allclose(found[stays], (whole / 0.8)[stays], rtol=1e-6, atol=0)
    alive = whole != 0
    gone = 1 - float((stays & alive).sum() / alive.sum())
    assert gone == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / int(alive.sum())) ** 0.5)
    assert torch.equal(seen_by(module.eval(), layer, x), whole)


def test_dropout_of_nothing_is_no_dropout(bench: Bench) -> None:
    module, _ = on(drawn(MLP, bench), bench, method("dropout", p=0.0))
    x = torch.rand(8, *bench.task.shape)
    assert torch.equal(module(x), module.eval()(x))


def test_dropped_channels_are_dropped_whole(bench: Bench) -> None:
    x = torch.rand(16, *bench.task.shape, generator=torch.Generator().manual_seed(0))
    zeros = {}
    for channels in (True, False):
        module, _ = on(with_biases(drawn(CONV, bench)), bench, method("dropout", p=0.5, channels=channels))
        layer = module.features[2]
        whole = torch.relu(module.features[0](x)).detach()
        torch.manual_seed(0)
        found = seen_by(module, layer, x)
        assert torch.equal(found[found != 0], (2 * whole)[found != 0])
        live = (whole != 0).flatten(2)
        zeros[channels] = [
            float((z & a).sum() / a.sum())
            for z, a in zip((found == 0).flatten(0, 1).flatten(1), live.flatten(0, 1), strict=True)
            if a.any()
        ]
    assert set(zeros[True]) == {0.0, 1.0}
    assert np.mean(zeros[True]) == pytest.approx(0.5, abs=5 * 0.5 / len(zeros[True]) ** 0.5)
    assert not {0.0, 1.0} >= set(zeros[False])


@pytest.mark.parametrize("p", [1, -0.1, True, "half"])
def test_a_probability_of_dropout_that_is_none(p, bench: Bench) -> None:
    with pytest.raises(UserError, match=r"reparametrise\.dropout: p: .* is not in \[0, 1\)"):
        on(drawn(MLP, bench), bench, method("dropout", p=p))


# deletion against removal


@pytest.mark.parametrize("name", [n for n in SPECS if n not in ("functional",)])
def test_units_deleted_answer_as_units_really_removed(name: str, bench: Bench) -> None:
    state = with_biases(drawn({"name": name, "build": SPECS[name]}, bench))
    small = Channels(RANDOM, fraction=0.4).apply(
        state, dataclasses.replace(bench, name="cut", say=lambda _: None)
    )
    module, sample = module_of(state), bench.task.drawn(2, torch.Generator().manual_seed(0))
    groups, _ = hidden_units(module, sample)
    [edit] = small.edits[len(state.edits) :]
    lost = []
    for group in groups:
        dim = "1" if isinstance(layer := module.get_submodule(group.layer), nn.ConvTranspose2d) else "0"
        stay = set(edit["cut"][f"{group.layer}.weight"][dim])
        channels = layer.weight.shape[int(dim)]
        gone = torch.tensor([c not in stay for c in range(channels)])
        lost.append(gone[: group.units])  # of grouped convolutions a unit is the same channel of every group
    assert all(int(x.sum()) for x in lost)
    own = dict(module.named_parameters())
    with torch.no_grad():
        for key, tensor in without_units(own, groups, lost).items():
            module.get_parameter(key).copy_(tensor)
        inputs = bench.task.encode(bench.feed("test").head(32))
        deleted, removed, whole = (
            forward(m, *inputs).logits for m in (module, module_of(small), module_of(state))
        )
    assert torch.allclose(deleted, removed, rtol=1e-5, atol=1e-5 * float(deleted.abs().max()))
    assert not torch.allclose(deleted, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


def test_an_mlp_without_units_by_hand(bench: Bench) -> None:
    state = with_biases(drawn(MLP, bench))
    w = {n: t.double().numpy() for n, t in state.weights.items()}
    keep = [np.arange(300) % 3 != 0, np.arange(100) % 4 != 1]
    x = bench.feed("test").head(50)
    h = bench.task.encode(x)[0].flatten(1).double().numpy()
    h = np.maximum(h @ w["hidden.0.weight"][keep[0]].T + w["hidden.0.bias"][keep[0]], 0)
    h = np.maximum(h @ w["hidden.2.weight"][np.ix_(keep[1], keep[0])].T + w["hidden.2.bias"][keep[1]], 0)
    expected = h @ w["fc.weight"][:, keep[1]].T + w["fc.bias"]
    module = module_of(state)
    groups, left = hidden_units(module, bench.task.drawn(2, torch.Generator().manual_seed(0)))
    assert not left
    by_layer = {"hidden.0": keep[0], "hidden.2": keep[1]}
    lost = [torch.from_numpy(~by_layer[g.layer]) for g in groups]
    with torch.no_grad():
        for key, tensor in without_units(dict(module.named_parameters()), groups, lost).items():
            module.get_parameter(key).copy_(tensor)
        found = module(bench.task.encode(x)[0])
    assert found.numpy() == pytest.approx(expected, abs=1e-5 * np.abs(expected).max())


# the probe: ends, counts, draws, intervals


@pytest.mark.parametrize("model", [MLP, CONV, TINY], ids=["mlp", "conv", "norm"])
def test_nothing_deleted_is_clean_and_all_deleted_is_the_bias(model, bench: Bench) -> None:
    state = with_biases(drawn(model, bench))
    found = told(state, bench, shares=[1.0, 0.0], draws=2)
    said = module_of(state)(bench.task.encode(bench.feed("test"))[0]).argmax(1)
    labels = bench.feed("test").labels.numpy()
    clean = 100 * float((said.numpy() == labels).mean())
    bias = 100 * float((labels == int(state.weights["fc.bias"].argmax())).mean())
    assert clean != pytest.approx(bias, abs=0.1)
    for what in ("units", "weights"):
        assert accuracy(found, f"{what}, 0 %") == pytest.approx(clean)
    # without weights biases of inner layers are left, but nothing reads them any more
    for what in ("units", "weights"):
        assert accuracy(found, f"{what}, 100 %") == pytest.approx(bias)
        for end in ("low", "high"):
            assert found[f"deletion_accuracy_{end}", f"{what}, 100 %"].value == pytest.approx(bias)


def test_as_much_is_deleted_as_was_said(bench: Bench) -> None:
    state = drawn(MLP, bench)
    pruned = prune(state, dataclasses.replace(bench, name="prune"), Prune(RANDOM, 0.7))
    sizes = {
        n: int((pruned.weights[n] != 0).sum()) for n in ("hidden.0.weight", "hidden.2.weight", "fc.weight")
    }
    assert sum(sizes.values()) == pytest.approx(0.3 * sum(state.facts["prunable"].values()), abs=1)
    found = told(pruned, bench, shares=[0.25, 0.333], draws=1)
    assert found["deleted", "units, 25 %"].value == 75 + 25
    assert found["deleted", "units, 33.3 %"].value == 100 + 33
    assert found["deleted", "weights, 25 %"].value == sum(round(n / 4) for n in sizes.values())
    assert "100 of 400 units of 2 layers" in found["deletion_accuracy", "units, 25 %"].note
    assert ("deletion_accuracy_low", "units, 25 %") not in found, "one draw has no interval"
    weight = pruned.weights["hidden.2.weight"]
    order = torch.randperm(sizes["hidden.2.weight"])
    for share in (0.0, 0.25, 0.333, 1.0):
        left = without_weights(weight, order, share)
        gone = (left == 0) & (weight != 0)
        assert int(gone.sum()) == round(share * sizes["hidden.2.weight"])
        assert torch.equal(left[~gone], weight[~gone])
    assert [int(first(torch.arange(10), s).sum()) for s in (0, 0.14, 0.16, 1)] == [0, 1, 2, 10]


def test_no_more_than_the_lost_units_are_touched(bench: Bench) -> None:
    module = module_of(drawn(MLP, bench))
    groups, _ = hidden_units(module, bench.task.drawn(2, torch.Generator().manual_seed(0)))
    assert [(g.layer, g.units) for g in groups] == [("hidden.2", 100), ("hidden.0", 300)]
    lost = [first(torch.randperm(g.units), 0.5) for g in groups]
    own = {n: p.detach() for n, p in module.named_parameters()}
    changed = without_units(own, groups, lost)
    assert set(changed) == {"hidden.2.weight", "fc.weight"}
    for name, gone in (("fc.weight", lost[0]), ("hidden.2.weight", lost[1])):
        assert not changed[name][:, gone].any()
        assert torch.equal(changed[name][:, ~gone], own[name][:, ~gone])


def test_states_of_a_run_lose_the_same_and_a_larger_share_the_same_and_more(
    bench: Bench, monkeypatch
) -> None:
    from compressbench.probes import deletion

    seen: list[dict[str, torch.Tensor]] = []

    def watched(module: nn.Module, *_: object) -> torch.Tensor:
        """Keeps which weights are left instead of asking the net."""
        read = ("hidden.2.weight", "fc.weight")
        seen.append({n: p.detach() != 0 for n, p in module.named_parameters() if n in read})
        return torch.ones(3)

    monkeypatch.setattr(deletion, "rights", watched)
    first_state, other = (drawn(MLP, dataclasses.replace(bench, name=n)) for n in ("init", "another"))
    assert not torch.equal(first_state.weights["fc.weight"], other.weights["fc.weight"])
    by_state = []
    for state, here in ((first_state, bench), (other, dataclasses.replace(bench, name="another")),
                        (first_state, dataclasses.replace(bench, seed=6))):  # fmt: skip
        seen.clear()
        list(Deletion(what=["units"], shares=[0.25, 0.5], draws=2)._measured(View(state, here, "net"), here))
        by_state.append([dict(x) for x in seen])
    one, two, reseeded = by_state
    assert len(one) == 4
    for a, b, c in zip(one, two, reseeded, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)
        assert not all(torch.equal(a[n], c[n]) for n in a)
    quarter, again, half, _ = one
    assert not torch.equal(quarter["fc.weight"], again["fc.weight"]), "draws differ"
    assert not (half["fc.weight"] & ~quarter["fc.weight"]).any(), (
        "what a quarter loses, the half has lost too"
    )


def test_the_interval_over_draws_is_students(bench: Bench) -> None:
    from scipy import stats

    state = drawn(MLP, bench)
    means = [
        accuracy(told(state, bench, what=["units"], shares=[0.5], draws=n), "units, 50 %") for n in (1, 2, 3)
    ]
    single = [means[0], 2 * means[1] - means[0], 3 * means[2] - 2 * means[1]]
    found = told(state, bench, what=["units"], shares=[0.5], draws=3)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(single), scale=stats.sem(single))
    assert len(set(single)) > 1
    assert found["deletion_accuracy_low", "units, 50 %"].value == pytest.approx(max(low, 0), abs=1e-6)
    assert found["deletion_accuracy_high", "units, 50 %"].value == pytest.approx(min(high, 100), abs=1e-6)


@pytest.mark.parametrize("model", [TINY, CONV], ids=["norm", "conv"])
def test_the_probe_leaves_a_view_as_it_was(model, bench: Bench) -> None:
    state = drawn(model, bench)
    other = drawn(model, dataclasses.replace(bench, name="other"))
    rows = check_probe(Deletion(shares=(0.5,), draws=2, examples=50), state, other, bench)
    assert {m.n for m in rows} == {50}


# what can't be had


def test_a_net_without_hidden_units_says_so_in_a_line(bench: Bench) -> None:
    found = told(drawn(LINEAR, bench), bench, shares=[0.5], draws=2)
    missing = found["deletion_accuracy", "units"]
    assert missing.value is None
    assert missing.note == ("no hidden units to delete: LeNet300100 has no channels that can be removed")
    assert found["deletion_accuracy", "weights, 50 %"].value is not None


def test_a_net_without_weights_says_so(bench: Bench) -> None:
    state = drawn(LINEAR, bench)
    empty = state.with_groups(weights={n: torch.zeros_like(t) for n, t in state.weights.items()})
    found = told(empty, bench, what=["weights"], shares=[0.5])
    assert found["deletion_accuracy", "weights"].note.startswith("no weights to delete")


def test_what_is_said_token_by_token_is_not_measured() -> None:
    told_by_token = SimpleNamespace(task=SimpleNamespace(streams=True))
    assert "token by token" in Deletion().unfit(told_by_token)
    [one, two] = Deletion().measure(None, None, SimpleNamespace(dataset=told_by_token))
    assert (one.value, two.value, one.group, two.group) == (None, None, "units", "weights")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"what": ["unit"]}, r"deletion: what: unknown 'unit'; did you mean units"),
        ({"what": "units"}, r"deletion: what is 'units', must be a list of at least one"),
        ({"shares": []}, r"deletion: shares is \[\], must be a list of at least one"),
        ({"shares": [0.5, 0.5]}, r"deletion: shares is \[0.5, 0.5\], must name each once"),
        ({"shares": [50]}, r"deletion: shares: 50 is not in \[0, 1\]"),
        ({"shares": [True]}, r"deletion: shares: True is not in \[0, 1\]"),
        ({"draws": 0}, r"draws: 0 is not a whole number of 1 or more"),
        ({"examples": 0}, r"examples: 0 is not a whole number of 1 or more"),
    ],
)
def test_settings_that_are_refused(settings, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Deletion(**settings)


def test_every_layer_but_the_first_gets_the_hook(bench: Bench) -> None:
    module, _ = on(drawn(CONV, bench), bench, method("dropout", channels=True))
    hooks = [len(layer._forward_pre_hooks) for layer in layers(module).values()]
    assert hooks == [0, 1, 1, 1, 1]
