"""The loyalty table on texts: layers left out, replaced and followed, its rows, its plan and the columns AA and #Q."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import short
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.theseus import rows_of
from compressbench.outputs import tapped
from compressbench.records import Record, Records
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import execute, prepare
from compressbench.stages.theseus import FirstBlocks, Replace, Shallower, Successor
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.training.distillation import patient
from compressbench.training.objectives import Batch

pytest.importorskip("tokenizers")
LECTURE = (
    "Head prune", "Head prune + fine-tune", "Head prune + KD", "Head prune + KD + PTQ", "Q8-QAT", "Q8-PTQ",
    "Q8-PTQ + fine-tune", "Q8-PTQ + KD", "PKD", "Theseus", "Theseus + KD", "Theseus + KD + PTQ",
)  # fmt: skip
"""The rows of the lecture's table below the teacher, in its order."""


def encoder(depth: int) -> dict[str, Any]:
    facts = {name: f"@{name}" for name in ("vocabulary", "classes", "length", "segments")}
    sizes = {"dim": 16, "depth": depth, "heads": 2, "mlp": 24, "dropout": 0.0}
    return {
        "name": "encoder",
        "build": {"_target_": "compressbench.models.encoder.TextEncoder", **sizes, **facts},
    }


@pytest.fixture(scope="module")
def bench() -> Bench:
    config = {
        "name": "glosses",
        "read": {"_target_": "compressbench.data.texts.glosses"},
        "task": {
            "_target_": "compressbench.tasks.text.classification.text_classification",
            "length": 16,
            "vocabulary": 400,
        },
        "train_size": 320,
        "test_size": 40,
        "validation": 40,
    }
    return Bench(load(config), seed=0, name="dense")


@pytest.fixture(scope="module")
def teacher(bench: Bench) -> State:
    return drawn(encoder(4), bench)


def training(length: str, **settings: Any) -> Train:
    return short.train(length, batch_size=16, validate=None, **settings)


def inputs_of(bench: Bench, count: int = 6) -> tuple[torch.Tensor, ...]:
    return bench.task.encode(bench.feed("test").head(count))


# Layers left out and replaced ----------------------------------------------------------------------------------------


def test_layers_with_a_mask_are_left_out(bench: Bench, teacher: State) -> None:
    spread, first = Shallower().apply(teacher, bench), FirstBlocks().apply(teacher, bench)
    assert spread.edits == ({"drop": ["layers.1", "layers.3"]},)
    assert first.edits == ({"drop": ["layers.2", "layers.3"]},)
    inputs = inputs_of(bench)
    for state, kept in ((spread, (0, 2)), (first, (0, 1))):
        net = module_of(teacher).eval()
        net.layers = nn.ModuleList(net.layers[k] for k in kept)
        with torch.no_grad():
            assert torch.equal(module_of(state).eval()(*inputs), net(*inputs))
        assert 0.45 < state.facts["forward_macs"] / teacher.facts["forward_macs"] < 0.55
    with pytest.raises(UserError, match="no 5 blocks in a row"):
        FirstBlocks(every=5).apply(teacher, bench)
    assert FirstBlocks(every=3).apply(teacher, bench).edits == (
        {"drop": ["layers.1", "layers.2", "layers.3"]},
    )
    with pytest.raises(UserError, match="every: 1 is less than 2"):
        FirstBlocks(every=1)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_layers_in_replacement_compute_as_what_stands_in(bench: Bench, teacher: State, start: float) -> None:
    """Never replaced it is the predecessor, always replaced, or in evaluation, the successor; the mask goes to each."""
    growth = 1e-30 if start == 0 else 0.0
    mixed = Replace(start=start, growth=growth).apply(teacher, bench)
    inputs = tuple(x[:, :9] for x in inputs_of(bench))
    with torch.no_grad():
        before = module_of(teacher).eval()(*inputs)
        after = module_of(Shallower().apply(teacher, bench)).eval()(*inputs)
        module = module_of(mixed).train()
        assert torch.equal(module(*inputs), after if start else before)
        assert torch.equal(module.eval()(*inputs), after)
        padded = tuple(nn.functional.pad(x, (0, 3)) for x in inputs)
        assert torch.allclose(module(*padded), after, atol=1e-6), "a masked pad changes nothing"
        assert torch.allclose(module.train()(*padded), after if start else before, atol=1e-6)
    assert not torch.allclose(before, after, atol=1e-3)


def test_replacing_trains_successors_alone_by_a_constant_or_a_growing_probability(
    bench: Bench, teacher: State
) -> None:
    bench = dataclasses.replace(bench, name="mixed")
    for settings in ({"start": 0.5, "growth": 0.0}, {"start": 0.3, "growth": 0.05}):
        mixed = Replace(**settings).apply(teacher, bench)
        trained = training("15it").apply(mixed, bench)
        learned = {n for n, t in trained.weights.items() if not torch.equal(t, mixed.weights[n])}
        assert {n.split(".new.")[0] for n in learned if ".new." in n} == {"layers.0", "layers.2"}
        assert not [n for n in learned if ".new." not in n and not n.endswith(".steps")]
        out = Successor().apply(trained, bench)
        assert out.edits == ({"drop": ["layers.1", "layers.3"]},)
        inputs = inputs_of(bench)
        with torch.no_grad():
            assert torch.equal(module_of(out).eval()(*inputs), module_of(trained).eval()(*inputs))


# Patient distillation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "every", "strategy", "points"),
    [
        # published for 6 of 12: teacher's layers 2, 4, 6, 8, 10, or 7 to 11, counted from 1
        (12, 2, "skip", {0: 1, 1: 3, 2: 5, 3: 7, 4: 9}),
        (12, 2, "last", {0: 6, 1: 7, 2: 8, 3: 9, 4: 10}),
        (6, 2, "skip", {0: 1, 1: 3}),
        (6, 2, "last", {0: 3, 1: 4}),
        (9, 3, "skip", {0: 2, 1: 5}),
    ],
)
def test_which_layer_follows_which(
    bench: Bench, depth: int, every: int, strategy: str, points: Mapping[int, int]
) -> None:
    deep = drawn(encoder(depth), bench)
    taught = dataclasses.replace(bench, references={"dense": deep})
    objective = patient(taught, ("dense",), every=every, strategy=strategy)
    assert objective.points == {f"layers.{own}": f"layers.{other}" for own, other in points.items()}
    student = module_of(FirstBlocks(every=every).apply(deep, bench))
    assert len(rows_of(module_of(deep))[0]) == depth
    objective.begin(student)


def test_the_patient_loss_is_the_published_one(bench: Bench, teacher: State) -> None:
    """PT by numpy: squared distance of the first tokens' states, each of length 1, mean over layers and examples."""
    taught = dataclasses.replace(bench, references={"dense": teacher})
    weights = {
        n: t + 0.1 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1))
        for n, t in teacher.weights.items()
    }
    other = dataclasses.replace(teacher, tensors={**teacher.tensors, "weights": weights}, key="")
    module, net = (module_of(s).eval() for s in (FirstBlocks().apply(other, bench), teacher))
    inputs = inputs_of(bench)
    with torch.no_grad(), tapped(module, ["layers.0"]) as own, tapped(net, ["layers.1"]) as theirs:
        outputs = own(*inputs)
        h = outputs.taps["layers.0"][:, 0].double().numpy()
        t = theirs(*inputs).taps["layers.1"][:, 0].double().numpy()
    far = h / np.linalg.norm(h, axis=1, keepdims=True) - t / np.linalg.norm(t, axis=1, keepdims=True)
    wanted = float((far**2).sum(axis=1).mean())
    labels, rows = bench.feed("test").labels[:6], torch.arange(6)
    losses = []
    for beta in (0.0, 7.0):
        objective = patient(taught, ("dense",), beta=beta)
        objective.begin(module)
        with torch.no_grad():
            batch = Batch(outputs, inputs, labels, rows)
            losses.append(float(objective(batch)))
    assert losses[1] - losses[0] == pytest.approx(7 * wanted, rel=1e-4)
    assert wanted > 0.01


def test_patience_makes_the_states_alike_and_refuses_in_one_line(bench: Bench, teacher: State) -> None:
    taught = dataclasses.replace(bench, name="pkd", references={"dense": teacher})
    student = FirstBlocks().apply(teacher, bench)
    objective = {
        "_target_": "compressbench.training.distillation.patient",
        "_partial_": True,
        "teacher": "dense",
        "beta": 1000.0,
        "share": 0.0,
    }
    inputs, far = inputs_of(bench), []
    for state in (student, training("40it", lr=0.1, objective=objective).apply(student, taught)):
        with torch.no_grad(), tapped(module_of(state).eval(), ["layers.0"]) as own:
            h = own(*inputs).taps["layers.0"][:, 0]
        with torch.no_grad(), tapped(module_of(teacher).eval(), ["layers.1"]) as theirs:
            t = theirs(*inputs).taps["layers.1"][:, 0]
        far.append(
            float(
                (nn.functional.normalize(h, dim=1) - nn.functional.normalize(t, dim=1)).square().sum(1).mean()
            )
        )
    assert far[1] < far[0] / 2
    with pytest.raises(UserError, match="strategy: 'skp' is unknown"):
        patient(taught, ("dense",), strategy="skp")
    with pytest.raises(UserError, match="has no 8 blocks in a row"):
        patient(taught, ("dense",), every=4)
    with pytest.raises(UserError, match="every: 1 is less than 2"):
        patient(taught, ("dense",), every=1)
    spread = dataclasses.replace(taught, references={"dense": drawn(encoder(6), bench)})
    odd = module_of(Shallower().apply(spread.references["dense"], bench))
    with pytest.raises(UserError, match=r"the student has no layers.1; a stage shrink/first_blocks"):
        patient(spread, ("dense",)).begin(odd)


def test_successors_begin_as_the_first_layers_or_as_their_own(bench: Bench) -> None:
    deep = drawn(encoder(6), bench)
    key = "layers.{}.mlp.0.weight"
    assert key.format(0) in deep.weights
    for begin, layers in (("own", (0, 2, 4)), ("first", (0, 1, 2))):
        mixed = Replace(begin=begin).apply(deep, dataclasses.replace(bench, name="mixed"))
        out = Successor().apply(mixed, bench)
        found = [
            t
            for n, t in sorted(out.weights.items())
            if n.startswith("layers.") and n.endswith("mlp.0.weight")
        ]
        assert len(found) == 3
        for own, layer in zip(found, layers, strict=True):
            assert torch.equal(own, deep.weights[key.format(layer)])
        for k in range(6):  # the predecessor is whole
            group = f"layers.{k // 2 * 2}.old.{k % 2}"
            assert torch.equal(mixed.weights[f"{group}.mlp.0.weight"], deep.weights[key.format(k)])
    spec = {"every": 2, "begin": "own"}
    assert Replace().in_key(spec) == {"every": 2}
    assert Replace(begin="first").in_key({**spec, "begin": "first"}) == {**spec, "begin": "first"}
    with pytest.raises(UserError, match="begin: 'frist' is unknown"):
        Replace(begin="frist")


# The table -----------------------------------------------------------------------------------------------------------


def test_the_recipe_has_the_rows_of_the_lecture_in_its_order_and_controls() -> None:
    compare = composed(["recipe=loyalty_table_text", "scale=smoke"])["recipe"]["compare"]
    rows = list(compare["series"])
    assert tuple(rows[:12]) == LECTURE
    assert set(rows[12:]) == {"random heads + fine-tune", "dense + fine-tune"}
    assert compare["reference"] == "dense", "the thirteenth: the teacher"
    assert compare["floor"] is True


def test_the_settings_of_each_scale() -> None:
    def of(scale: str, *more: str) -> dict[str, Any]:
        return composed(["recipe=loyalty_table_text", f"scale={scale}", *more])

    laptop = of("laptop")
    dense = laptop["recipe"]["stages"]["dense"]
    assert (dense["length"], dense["batch_size"], dense["lr"]) == ("1ep", 32, 5e-5)
    assert dense["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert laptop["dataset"]["train_size"] - laptop["dataset"]["validation"] == 25_600
    assert laptop["evaluation"]["probes"]["substitution"]["examples"] == 100
    assert laptop["hardware"]["target"]["_target_"].endswith("OpenVINOCPU")
    paper = of("paper", "model.build.folder=/bert")
    dense = paper["recipe"]["stages"]["dense"]
    assert (dense["length"], dense["batch_size"], dense["lr"]) == ("3ep", 32, 2e-5)
    assert paper["dataset"]["task"]["length"] == 128
    for scale, steps in (("laptop", 300), ("paper", 3 * 67_349 // 32)):
        mixed = of(scale, "model.build.folder=/bert")["recipe"]["stages"]["mixed"]
        full = (1 - mixed["start"]) / mixed["growth"]
        assert 0.6 < full / steps < 0.72, "the last third of the steps takes successors alone"
    mnli = of("laptop", "dataset=scaled/mnli_loyalty_laptop", "evaluation=loyalty_mnli")
    shifted = mnli["evaluation"]["probes"]["shifted"]
    assert (shifted["text"], shifted["second"]) == ("premise", "hypothesis")


def rows(seeds: int = 1) -> list[Record]:
    from cases_report import record

    found = []
    figures = (
        ("accuracy", "top1", 80.0, "%", "", ""),
        ("substitution", "substitution_clean_accuracy", 79.0, "%", "", ""),
        ("substitution", "substitution_accuracy", 31.0, "%", "", "at most 40% of a text’s words exchanged"),
        ("substitution", "substitution_accuracy_low", 22.0, "%", "", ""),
        ("substitution", "substitution_accuracy_high", 41.5, "%", "", ""),
        ("substitution", "substitution_queries", 61.0, "queries", "", "of texts that it got right before"),
        ("substitution", "substitution_transfer_accuracy", 55.0, "%", "", ""),
        ("substitution", "substitution_example", 7.0, "1", "1", "great → <b>bully</b> · a <b>bully</b> film"),
    )
    for order, series in enumerate(("dense", "PKD")):
        for probe, metric, value, unit, group, note in figures:
            found.append(
                record(
                    series=series,
                    order=order,
                    state=series,
                    density=1 - order / 2,
                    probe=probe,
                    metric=metric,
                    value=value + order,
                    unit=unit,
                    n=100,
                    group=group,
                    note=note,
                )
            )
    return found


def test_aa_and_queries_are_columns_of_the_lecture_table() -> None:
    from compressbench.report.panels import panels
    from compressbench.report.sections.methods import lecture_table
    from compressbench.report.sections.others import leftover_tables

    panel = panels(Records(rows()))[0]
    table = lecture_table(panel, "final")
    assert table is not None
    assert [name for name, _ in table.heads][-2:] == ["AA", "#Q"]
    assert [c.text for c in table.rows[1].cells[-2:]] == ["32.0", "62.0"]
    assert any("on 100 test texts (at most 40% of a text’s words exchanged)" in note for note in table.notes)
    assert not leftover_tables(panel, "final")


def test_the_page_shows_what_was_exchanged_as_text(tmp_path: Path) -> None:
    from compressbench.report.page import write_report
    from compressbench.report.panels import panels
    from compressbench.report.sections import robustness

    section = robustness.section(panels(Records(rows()))[0], "")
    (table,) = section.tables
    heads = [name for name, _ in table.heads]
    assert (
        heads[-6:] == ["Before", "After attack", "95 % of texts", "#Q", "Transfer"][-6:]
        or "After attack" in heads
    )
    cells = dict(zip(heads, (c.text for c in table.rows[0].cells), strict=True))
    assert (cells["Before"], cells["After attack"], cells["#Q"], cells["Transfer"]) == (
        "79.0",
        "31.0",
        "61.0",
        "55.0",
    )
    assert cells["95 % of texts"] == "22.0–41.5"
    assert [tile.name for tile in section.galleries[0].tiles] == ["Test example 7"]
    page = write_report(Records(rows()), tmp_path, "texts").read_text(encoding="utf-8")
    assert "great → &lt;b&gt;bully" in page
    assert "<b>bully" not in page


@pytest.mark.slow
def test_the_whole_table_at_smoke_scale(tmp_path: Path) -> None:
    config = composed(["recipe=loyalty_table_text", "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}"])
    done: list[Record] = []
    records = execute(prepare(config), Watcher(), done)
    for probe, metric in (
        ("accuracy", "top1"),
        ("loyalty", "label_loyalty"),
        ("loyalty", "probability_loyalty"),
        ("substitution", "substitution_accuracy"),
        ("substitution", "substitution_queries"),
    ):
        found = records.where(probe=probe, metric=metric, moment="final", group="")
        assert len(found) == 16, metric
        assert all(r.value is not None for r in found), metric

    def value(series: str, metric: str) -> float:
        return float(records.where(metric=metric, series=series, group="")[0].value or 0)

    assert value("Q8-PTQ", "label_loyalty") > 97
    assert value("Head prune + KD", "probability_loyalty") > value(
        "Head prune + fine-tune", "probability_loyalty"
    )
    assert value("Theseus + KD", "probability_loyalty") > value("Theseus", "probability_loyalty")
    half = value("PKD", "macs") / value("dense", "macs")
    assert 0.45 < half < 0.6
    assert value("Theseus", "macs") == value("PKD", "macs")
