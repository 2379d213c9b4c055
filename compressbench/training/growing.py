"""Growing a random forest: scikit-learn grows, what is kept are tensors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from compressbench.bench import Bench
from compressbench.data.examples import known, one_class
from compressbench.errors import UserError
from compressbench.models.build import load, snapshot
from compressbench.models.forest import Forest as Module
from compressbench.models.forest import packed
from compressbench.seeds import derive_seed
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.fit import Forest

TARGET = "compressbench.models.forest.Forest"


def grown(bench: Bench, settings: Forest) -> State:
    """Applies a ``stages.fit.Forest``.

    Raises:
        UserError: scikit-learn isn't installed; examples are no numbers of one size, or have several labels.
    """
    kind, maker = _classifier()
    began = time.monotonic()  # scikit-learn takes seconds to import
    train = bench.dataset.split("train").to("cpu")
    one_class(train.labels, "fit/forest")
    train = train.take(known(train.labels))
    inputs = bench.task.encode(train)
    if len(inputs) != 1 or not inputs[0].is_floating_point():
        raise UserError(f"fit/forest: trees split numbers, and an example is {bench.task.in_words()}")
    rows, classes = inputs[0].flatten(1).numpy(), len(bench.task.classes)
    forest = kind(
        n_estimators=settings.trees,
        max_depth=settings.depth,
        min_samples_leaf=settings.least,
        random_state=derive_seed(bench.seed, settings.draw, "forest") % 2**32,
    ).fit(rows, train.labels.numpy())
    trees = [one.tree_ for one in forest.estimators_]
    sizes, tensors = packed(trees, [int(c) for c in forest.classes_], rows.shape[1], classes)
    module = Module(**sizes)
    load(module, tensors, "the forest's tensors")
    facts = {
        "density": 1.0,
        "prunable": {},
        "drawn": {},
        "whole": 0,
        "whole_parameters": sum(p.numel() for p in module.parameters()),
        "forward_macs": 0,
        "examples": len(train),
        "macs": 0,
        "seconds": time.monotonic() - began,
        "flags": [],
        "grown_by": maker,
    }
    return State(model={"_target_": TARGET, **sizes}, tensors={"weights": snapshot(module)}, facts=facts)


def _classifier() -> tuple[Any, str]:
    """scikit-learn's class of forests, and the version of it, on which trees may depend."""
    try:
        from sklearn import __version__
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise UserError(
            f"fit/forest: scikit-learn isn't installed ({error}): pip install 'compressbench[lecture]'"
        ) from error
    return RandomForestClassifier, f"scikit-learn {__version__}"
