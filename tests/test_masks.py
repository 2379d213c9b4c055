"""Masks: exact counts, ties, nesting, rates, the densities of the lottery ticket paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressbench import masks
from compressbench.errors import UserError

WHOLE = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}


def ones(shapes):
    return {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()}


@pytest.mark.parametrize(("levels", "published"), [(3, 51.3), (7, 21.1), (9, 13.5), (15, 3.6)])
def test_lenet_densities_of_the_paper(levels: int, published: float) -> None:
    kept = ones(WHOLE)
    scores = {n: torch.rand(s) for n, s in WHOLE.items()}
    rates = masks.rates_by_tensor(scores, {"@output": 0.1})
    assert rates == {"fc3.weight": 0.1}
    for _ in range(levels):
        kept = masks.choose(scores, kept, 0.2, "layer", "left", rates)
    density = masks.density(kept, {n: m.numel() for n, m in kept.items()})
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
    new = masks.choose({"w": scores}, {"w": old}, fraction, "global", "left", {})["w"]
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
    everywhere = masks.choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, "global", "left", {})
    assert [int(m.sum()) for m in everywhere.values()] == [0, 10]
    assert masks.emptied(everywhere) == ["a"]
    each = masks.choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, "layer", "left", {})
    assert [int(m.sum()) for m in each.values()] == [5, 5]
    own = masks.choose(scores, ones({"a": (10,), "b": (10,)}), 0.5, "global", "left", {"a": 0.0})
    assert [int(m.sum()) for m in own.values()] == [10, 5]


def test_of_the_whole_never_brings_weights_back() -> None:
    assert masks.keep_count(30, 100, 0.5, "whole") == 30
    assert masks.keep_count(30, 100, 0.9, "whole") == 10
    assert masks.keep_count(30, 100, 0.9, "left") == 3


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
