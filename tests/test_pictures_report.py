"""Learned pictures as records and on the page; a run that says beforehand what it can't hold; the shipped recipes."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from cases_report import accuracies, record
from compressbench.bench import Bench
from compressbench.checking.probes import check_metrics
from compressbench.cli.run import composed
from compressbench.condensing import memory
from compressbench.condensing.starts import RATES
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.png import PREFIX, strip
from compressbench.probes.pictures import Pictures
from compressbench.records import Record, Records
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections import distilled
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import execute, prepare
from compressbench.stages.condense import Distilled
from compressbench.stages.fit import Forest
from compressbench.stages.init import Init
from compressbench.state import State
from compressbench.views import View
from conftest import MLP

DOT = PREFIX + "AAAA"


@pytest.fixture(scope="module")
def carrying(place: Bench) -> State:
    """Ten pictures, of which the first has pixels beyond black and white."""
    net = drawn(MLP, place)
    made = Distilled("0it", begin="real", epochs=2, rate=0.5, batch_size=50).apply(net, place)
    data = dict(made.group("data"))
    data["images"] = data["images"].clone()
    data["images"][0, 0, 0] = torch.tensor([-51.0, -1.0, 300.0, 255.0, 0.0, 10.0, 20.4, 20.6])
    data[RATES] = torch.tensor([0.25, 0.75]).repeat(10, 1)
    return made.with_groups(data=data).with_facts(chosen_validation=41.5)


def test_the_pictures_of_a_state(place: Bench, carrying: State) -> None:
    view = View(carrying, place, "ten")
    found = list(Pictures(shown=3).measure(view, view, place))
    check_metrics(found)
    figures = {m.name: m for m in found if m.name != "distilled_picture"}
    assert figures["distilled_pictures"].value == 10
    assert figures["distilled_outside"].value == pytest.approx(100 * 3 / 640)
    assert figures["step_size_mean"].value == 0.5
    assert figures["step_size_mean"].note == "0.25 to 0.75"
    assert figures["chosen_validation"].value == 41.5
    each = [m for m in found if m.name == "distilled_picture"]
    assert [(m.value, m.group) for m in each] == [(1, "1"), (2, "2"), (3, "3")]
    pixels = carrying.group("data")["images"]
    first = pixels[0].numpy().copy()
    assert each[0].note == f"0 · pixels -0.20 to {300 / 255:.2f} · step sizes 0.25, 0.75"
    first[0, 0] = [0, 0, 255, 255, 0, 10, 20, 21]
    assert each[0].artefact == strip(first.astype(np.uint8)[None])
    assert each[1].artefact == strip(pixels[1].byte().numpy()[None])


def test_a_state_without_pictures_says_so(place: Bench, carrying: State) -> None:
    view = View(carrying.with_groups(data={}), place, "none")
    (only,) = Pictures().measure(view, view, place)
    assert (only.value, only.note) == (None, "this state carries no data set")
    with pytest.raises(UserError, match="pictures: shown is -1"):
        Pictures(shown=-1)


def picture(series: str, place: int, **more: object) -> Record:
    given = {"moment": "pictures", "probe": "pictures", "metric": "distilled_picture", "value": float(place)}
    row = record(**given, series=series, unit="1", group=str(place), n=12, order=1, **more)
    return dataclasses.replace(row, note=more.get("note", f"<b>shirt</b> · step sizes {place}"), artefact=DOT)


@pytest.fixture
def rows() -> list[Record]:
    """Two seeds; three nets a seed on other inits."""
    init, trained = {0: 20.0, 1: 30.0}, {0: 60.0, 1: 64.0}
    found = accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0})
    found += accuracies("ten pictures, init", 1, 1.0, init) + accuracies(
        "ten pictures, trained", 1, 1.0, trained
    )
    found += accuracies("ten pictures, best real", 1, 1.0, {0: 40.0, 1: 50.0})
    for order, more in enumerate((0, 3, 9), 1):
        found += accuracies("ten pictures, other inits, init", order, 1.0, {0: 10.0 + more, 1: 20.0 + more})
        found += accuracies(
            "ten pictures, other inits, trained", order, 1.0, {0: 20.0 + more, 1: 28.0 + more}
        )
    found += accuracies("alone, trained", 1, 1.0, {0: 50.0})
    found += [picture("ten pictures, trained", k) for k in (2, 1, 3)]
    found += [
        picture("ten pictures, init", 1),
        picture("more, init", 1),
        picture("ten pictures, init", 1, seed=1),
    ]
    found += [picture("dense", 1, key=found[-3].key)]
    return [
        *found,
        record(moment="pictures", probe="pictures", metric="distilled_pictures", unit="examples", value=10.0),
    ]


def test_init_and_trained_stand_in_one_row(rows: list[Record]) -> None:
    (panel,) = panels(Records(rows))
    table = distilled.before_and_after(panel)
    assert table is not None
    assert [head for head, _ in table.heads] == ["init", "trained", "gained", "best real"]
    assert [row.label for row in table.rows] == ["ten pictures", "ten pictures, other inits"]
    first, second = table.rows
    assert [c.text for c in first.cells] == ["25.0", "62.0", "+37.0", "45.0"]
    assert first.cells[0].sd == f"±{statistics.stdev([20, 30]):.1f}"
    assert first.cells[2].sd == f"±{statistics.stdev([40, 34]):.1f}", "seed by seed"
    assert [c.text for c in second.cells] == ["19.0", "28.0", "+9.0", "–"], "the mean of three nets a seed"
    assert "whole training set: 90.5 %" in table.notes[0]
    (other,) = panels(
        Records([r for r in rows if r.series != "ten pictures, trained" or r.probe == "pictures"])
    )
    assert [row.label for row in distilled.before_and_after(other).rows] == ["ten pictures, other inits"]


def test_the_page_shows_the_pictures_and_whose_figures_the_lecture_has(
    rows: list[Record], tmp_path: Path
) -> None:
    (panel,) = panels(Records(rows))
    galleries = distilled.section(panel, "").galleries
    assert [g.title for g in galleries] == [
        f"Pictures: {s}" for s in ("ten pictures, trained", "ten pictures, init", "more, init")
    ]
    assert [g.folded for g in galleries] == [False, False, True]
    assert [t.caption for t in galleries[0].tiles] == ["step sizes 1", "step sizes 2", "step sizes 3"]
    assert len(galleries[1].tiles) == 1, "of one seed"
    assert galleries[0].lead == "Seed 0; the first 3 of 12 pictures."
    page = write_report(Records(rows), tmp_path, "t").read_text(encoding="utf-8")
    assert page.count(f'src="{DOT}"') == 5
    assert "&lt;b&gt;shirt&lt;/b&gt;" in page
    assert "<b>shirt" not in page
    assert "Those are no figures of that paper" in page
    assert "Both nets begin" not in page
    assert "kernel ridge regression is solved and has neither" in page
    plain = write_report(Records(accuracies("dense", 0, 1.0, {0: 90.0})), tmp_path / "plain", "t")
    assert "Few pictures in place of many" not in plain.read_text(encoding="utf-8")


def test_a_foreign_address_is_not_linked_to() -> None:
    row = dataclasses.replace(picture("a, init", 1), artefact="https://elsewhere/x.png")
    (panel,) = panels(Records([row, record()]))
    assert [t.source for g in distilled._galleries(panel) for t in g.tiles] == [""]


def config(recipe: str, tmp_path: Path, *changes: str) -> dict:
    return composed([f"recipe={recipe}", "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}", *changes])


def test_too_many_inner_steps_are_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare(config("dataset_distillation", tmp_path, "recipe.compare.floor=false"))
    monkeypatch.setattr(memory, "available", lambda device: 900_000)
    with pytest.raises(UserError) as told:
        execute(ready, Watcher(), [])
    text = str(told.value)
    assert text.startswith("stage fixed: data/distilled: 3 inner steps (1 sets x 3 epochs) need about"), text
    assert text.endswith("0.9 MB are free, enough for 2"), text
    assert "\n" not in text
    assert not any(ready.store.load(n.key) for n in ready.plan.nodes)


def test_images_that_do_not_fit_are_said_before_anything_is_made(tmp_path: Path) -> None:
    for recipe, stage in (("dataset_distillation", "fixed_begin"), ("kernel_inducing_points", "begin")):
        ready = prepare(config(recipe, tmp_path, "recipe.images=7", "recipe.compare.floor=false"))
        with pytest.raises(
            UserError, match=rf"stage {stage}: data/\w+: images: 7 is less than the 10 classes"
        ):
            execute(ready, Watcher(), [])
        assert not any(ready.store.load(n.key) for n in ready.plan.nodes)


def test_only_draws_are_made_beforehand_and_only_for_whom_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest in place of the init isn't grown to be asked for; kernel inducing points need no net at all."""

    def grown(*given: object) -> State:
        raise AssertionError("made beforehand")

    def stop(self: Executor) -> None:
        raise Stopped

    monkeypatch.setattr(Executor, "_own", stop)
    for recipe, maker in (("kernel_inducing_points", Init), ("dataset_distillation", Forest)):
        ready = prepare(config(recipe, tmp_path, "recipe.compare.floor=false"))
        if maker is Forest:
            nodes = [
                dataclasses.replace(n, stage=Forest(trees=3)) if n.local == "init" else n
                for n in ready.plan.nodes
            ]
            ready = dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, nodes=nodes))
        with monkeypatch.context() as patched:
            patched.setattr(maker, "apply", grown)
            with pytest.raises(Stopped):
                execute(ready, Watcher(), [])


class Stopped(Exception):
    """Where a run is stopped: nothing is made yet."""


def test_memory_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit, used = tmp_path / "meminfo", tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "GROUPS", ((tmp_path, "max", "current"),))
    assert memory.available("cpu") is None, "the system doesn't tell"
    meminfo.write_text("MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable:   50 kB\n")
    assert memory.available("cpu") == 50 * 1024
    limit.write_text("max\n")
    used.write_text("4096\n")
    assert memory.available("cpu") == 50 * 1024
    limit.write_text("10240\n")
    assert memory.available("cpu") == 6144
