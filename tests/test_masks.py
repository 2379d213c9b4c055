"""Masks: exact counts, ties, nesting, rates, the densities of the lottery ticket paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressbench import masks, specs
from compressbench.errors import UserError
from compressbench.grains.block import block
from compressbench.grains.column import column
from compressbench.grains.kernel import kernel
from compressbench.grains.layer import layer as layer_grain
from compressbench.grains.row import row
from compressbench.grains.weight import weight
from compressbench.pruning.unstructured import units_of
from compressbench.scopes.erk import densities, erk
from compressbench.scopes.global_ import global_
from compressbench.scopes.layer import layer
from compressbench.scopes.n_m import n_m
from compressbench.scopes.units import keep_count

WHOLE = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}


def ones(shapes):
    return {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()}


def choose(scores, old, fraction, scope, of="left", rates=None, grain=None, **settings):
    """Masks by a scope, as ``unstructured.decide`` makes them."""
    grain = grain or weight()
    units = {n: units_of(s, old[n], grain) for n, s in scores.items()}
    stay = scope(units, fraction, of, rates or {}, **settings)
    return {n: grain.spread(stay[n], tuple(s.shape)) & old[n] for n, s in scores.items()}


@pytest.mark.parametrize(("levels", "published"), [(3, 51.3), (7, 21.1), (9, 13.5), (15, 3.6)])
def test_lenet_densities_of_the_paper(levels: int, published: float) -> None:
    kept = ones(WHOLE)
    scores = {n: torch.rand(s) for n, s in WHOLE.items()}
    rates = masks.rates_by_tensor(scores, {"@output": 0.1})
    assert rates == {"fc3.weight": 0.1}
    for _ in range(levels):
        kept = choose(scores, kept, 0.2, layer, "left", rates)
    sizes = {n: m.numel() for n, m in kept.items()}
    density = masks.density(kept, sizes, sum(sizes.values()))
    assert round(100 * density, 1) == published


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0, float("nan")]), min_size=1, max_size=60),
    fraction=st.floats(0, 0.99),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_exact_counts_nested_and_stable_under_ties(values, fraction, data) -> None:
    scores = torch.tensor(values)
    old = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    new = choose({"w": scores}, {"w": old}, fraction, global_)["w"]
    kept = int(old.sum())
    assert int(new.sum()) == kept - round(fraction * kept)
    assert not (new & ~old).any()
    ranked = torch.nan_to_num(scores, nan=-torch.inf)
    if new.any() and (old & ~new).any():
        assert ranked[new].min() >= ranked[old & ~new].max()
        tied = [i for i in range(len(values)) if old[i] and ranked[i] == ranked[new].min()]
        assert [bool(new[i]) for i in tied] == sorted((bool(new[i]) for i in tied), reverse=True)


def test_scopes() -> None:
    scores = {"a": torch.arange(10.0), "b": torch.arange(10.0) + 100}
    everywhere = choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, global_)
    assert [int(m.sum()) for m in everywhere.values()] == [0, 10]
    assert masks.emptied(everywhere) == ["a"]
    each = choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, layer)
    assert [int(m.sum()) for m in each.values()] == [5, 5]
    own = choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, global_, rates={"a": 0.0})
    assert [int(m.sum()) for m in own.values()] == [10, 5]


def test_of_the_whole_never_brings_weights_back() -> None:
    assert keep_count(30, 100, 0.5, "whole") == 30
    assert keep_count(30, 100, 0.9, "whole") == 10
    assert keep_count(30, 100, 0.9, "left") == 3
    assert [keep_count(k, 100, 0.1, "more") for k in (100, 90, 10, 5)] == [90, 80, 0, 0]


def test_unknown_patterns() -> None:
    weights = {n: torch.zeros(s) for n, s in WHOLE.items()}
    with pytest.raises(UserError, match=r"'fc9\*' fits no prunable tensor"):
        masks.rates_by_tensor(weights, {"fc9*": 0.1})
    with pytest.raises(UserError, match="did you mean @output"):
        masks.rates_by_tensor(weights, {"@outputs": 0.1})


def test_random_like_keeps_the_count_of_each_layer() -> None:
    like = {"a": torch.rand(20, 20) > 0.7, "b": torch.rand(5, 9) > 0.1}
    drawn = masks.random_like(like, torch.Generator().manual_seed(0))
    assert {n: int(m.sum()) for n, m in drawn.items()} == {n: int(m.sum()) for n, m in like.items()}
    assert any(not torch.equal(drawn[n], like[n]) for n in like)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (4, 4)])
@pytest.mark.parametrize("shape", [(6, 16), (5, 8, 3, 3)])
def test_n_of_m_in_every_group_of_inputs(n: int, m: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scores = {"w": torch.rand(shape)}
    new = choose(scores, ones({"w": shape}), None, n_m, n=n, m=m)["w"]
    groups = new.movedim(1, -1).reshape(-1, m)
    assert (groups.sum(1) == n).all()
    assert int(new.sum()) == new.numel() * n // m
    best = scores["w"].movedim(1, -1).reshape(-1, m).topk(n, dim=1).values.sum()
    assert torch.isclose(scores["w"][new].sum(), best)
    rows = new[torch.randperm(shape[0])].movedim(1, -1).reshape(-1, m)
    assert (rows.sum(1) == n).all(), "outputs may change places"
    if n < m < shape[1]:
        moved = new[:, torch.arange(shape[1]).view(-1, m).t().reshape(-1)].movedim(1, -1).reshape(-1, m)
        assert (moved.sum(1) != n).any(), "inputs may not"


def test_n_of_m_under_earlier_masks_keeps_at_most_n() -> None:
    old = {"w": torch.rand(8, 16) < 0.4}
    new = choose({"w": torch.rand(8, 16)}, old, None, n_m)["w"]
    assert not (new & ~old["w"]).any()
    assert torch.equal(new.view(-1, 4).sum(1), old["w"].view(-1, 4).sum(1).clamp(max=2))


def test_n_of_m_refusals() -> None:
    scores, old = {"w": torch.rand(4, 6)}, ones({"w": (4, 6)})
    with pytest.raises(
        UserError, match=r"w of shape \(4, 6\) has 6 inputs, no multiple of 4; .*rates=\{w: 0\}"
    ):
        choose(scores, old, None, n_m)
    assert choose(scores, old, None, n_m, rates={"w": 0})["w"].all()
    with pytest.raises(UserError, match=r"2:4 removes 50% by itself; set fraction=null"):
        choose(scores, old, 0.5, n_m)
    with pytest.raises(UserError, match="set grain=weight"):
        choose(scores, old, None, n_m, grain=row())
    with pytest.raises(UserError, match="3:2 is not possible"):
        choose(scores, old, None, n_m, n=3, m=2)
    with pytest.raises(UserError, match="this scope needs one"):
        choose(scores, old, None, global_)


GRAINS = {
    "row": (row(), lambda m: m.flatten(1)),
    "column": (column(), lambda m: m.transpose(0, 1).flatten(1)),
    "kernel": (kernel(), lambda m: m.reshape(m.shape[0] * m.shape[1], -1)),
    "layer": (layer_grain(), lambda m: m.reshape(1, -1)),
}


@pytest.mark.parametrize("name", GRAINS)
@pytest.mark.parametrize("shape", [(8, 12), (8, 4, 3, 3)])
def test_a_grain_stays_or_goes_whole(name: str, shape: tuple[int, ...]) -> None:
    grain, units = GRAINS[name]
    scores = {"a": torch.rand(shape), "b": torch.rand(shape)}
    new = choose(scores, ones({"a": shape, "b": shape}), 0.5, global_, grain=grain)
    for mask in new.values():
        share = units(mask).float().mean(1)
        assert set(share.tolist()) <= {0.0, 1.0}
    folded = torch.cat([units(s).mean(1) for s in scores.values()])
    stay = torch.cat([units(m)[:, 0] for m in new.values()])
    assert int(stay.sum()) == len(stay) // 2
    assert folded[stay].min() >= folded[~stay].max(), "the best means stay"


@pytest.mark.parametrize("shape", [(8, 12), (6, 10), (8, 4, 3, 3), (5, 1, 3, 3)])
def test_blocks_of_four_by_four_and_smaller_ones_at_the_edges(shape: tuple[int, ...]) -> None:
    scores, old = {"w": torch.rand(shape)}, ones({"w": shape})
    new = choose(scores, old, 0.5, layer, grain=block())["w"]
    for place in new.reshape(*shape[:2], -1).unbind(2):
        for top in range(0, shape[0], 4):
            for left in range(0, shape[1], 4):
                part = place[top : top + 4, left : left + 4]
                assert bool(part.all()) or not bool(part.any())
    if shape == (8, 12):
        assert int(new.sum()) == 48


def test_a_grain_counts_what_is_left() -> None:
    old = {"w": torch.ones(4, 10, dtype=torch.bool)}
    old["w"][0, :9] = False
    new = choose({"w": torch.arange(40.0).view(4, 10)}, old, 11 / 31, layer, grain=row())["w"]
    assert [int(r.sum()) for r in new] == [0, 0, 10, 10]


def test_erk_keeps_the_whole_and_spares_small_layers() -> None:
    shares = densities(WHOLE, 26_620)
    sizes = {n: s[0] * s[1] for n, s in WHOLE.items()}
    assert sum(shares[n] * sizes[n] for n in WHOLE) == pytest.approx(26_620)
    assert shares["fc3.weight"] == 1.0
    assert shares["fc1.weight"] / shares["fc2.weight"] == pytest.approx(
        ((300 + 784) / (300 * 784)) / ((100 + 300) / (100 * 300))
    )
    scores = {n: torch.rand(s) for n, s in WHOLE.items()}
    new = choose(scores, ones(WHOLE), 0.9, erk)
    assert sum(int(m.sum()) for m in new.values()) == 26_620


def test_plain_words_are_import_paths() -> None:
    stage = {"_target_": "compressbench.stages.prune.Prune", "criterion": "magnitude", "scope": "global"}
    full = specs.expand(stage)
    assert full["criterion"]["_target_"] == "compressbench.criteria.magnitude.magnitude"
    assert full["scope"]["_target_"] == "compressbench.scopes.global_.global_"
    with pytest.raises(UserError, match=r"there is no 'colum' in grains; did you mean column"):
        specs.expand({**stage, "grain": "colum"}, "recipe.stages.prune")
