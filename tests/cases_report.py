"""Records and pages for tests of reports."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compressbench.records import Record, Records, write_jsonl
from compressbench.report.page import write_report
from compressbench.report.tables import Table


def record(**given) -> Record:
    """A record with everything that a test doesn't care about filled in."""
    values = {
        "recipe": "lth",
        "model": "lenet",
        "dataset": "digits",
        "scale": "smoke",
        "hardware": "cpu",
        "seed": 0,
        "series": "dense",
        "moment": "final",
        "order": 0,
        "density": 1.0,
        "compute": 1e9,
        "probe": "accuracy",
        "metric": "top1",
        "group": "",
        "value": 90.0,
        "unit": "%",
        "basis": "measured",
        "n": 500,
        "note": "",
        "dtype": "fp32",
        "versions": "compressbench 0.1.0, torch 2.15.0",
        "machine": "a processor, 1 thread",
    } | given
    values.setdefault("state", f"level{values['order']}" if values["order"] else values["series"])
    values.setdefault(
        "key",
        "-".join(str(values[k]) for k in ("model", "dataset", "series", "moment", "order", "seed")),
    )
    values.setdefault(
        "reference", f"{values['model']}-{values['dataset']}-dense-{values['moment']}-0-{values['seed']}"
    )
    return Record(**values)


def accuracies(series: str, order: int, density: float, by_seed: dict[int, float], **given) -> list[Record]:
    compute = given.pop("compute", 1e9 * (order + 1))
    return [
        record(series=series, order=order, density=density, seed=s, value=v, compute=compute, **given)
        for s, v in by_seed.items()
    ]


def full(seeds: int = 2, levels: int = 3, moments: tuple[str, ...] = ("final", "early"), **given) -> Records:
    """Every probe that the package has, small and without randomness."""
    rows = []
    classes, layers = ["Shirt", "Coat", "Bag"], ["conv1", "layer1.0.conv2", "fc"]
    states = [("dense", 0), ("floor", 0)]
    states += [(s, k) for s in ("ticket", "random", "one-shot") for k in range(1, levels + 1)]
    for seed in range(seeds):
        for moment in moments:
            for series, order in states:
                loss = {"ticket": 0.4, "random": 3.0}.get(series, 1.0) * order + 0.2 * seed
                here = {"seed": seed, "moment": moment, "series": series, "order": order} | given
                here |= {"density": 0.5**order, "compute": 1e9 * (order + 1)}

                def add(probe, metric, value, unit, basis="measured", here=here, **more):
                    rows.append(
                        record(
                            **here, probe=probe, metric=metric, value=value, unit=unit, basis=basis, **more
                        )
                    )

                add("accuracy", "top1", 90 - loss, "%")
                add("accuracy", "nll", 0.3 + loss / 50, "nats")
                add("accuracy", "ece", 2.0, "%")
                add("accuracy", "n", 500, "examples")
                for place, name in enumerate(classes):
                    add("forgetting", "recall", 88 - loss * place, "%", group=name, n=50)
                    add("forgetting", "recall_change", -loss * place, "points", group=name, n=50)
                add("forgetting", "forgotten", loss, "%")
                add("loyalty", "label_loyalty", 100 - loss, "%")
                add("loyalty", "probability_loyalty", 99 - loss, "%", note="natural logarithm")
                add("loyalty", "probability_loyalty_base2", 98 - loss, "%", note="base 2")
                add("robustness", "pgd_accuracy", 20 - loss, "%", n=128)
                add("structure", "parameters", 1234, "1", "theoretical")
                for place, name in enumerate(layers):
                    kept = 0.0 if series == "random" and order == levels and place == 1 else 100 * 0.5**order
                    add("structure", "layer_density", kept, "%", "theoretical", group=name)
                add("compute", "train_seconds", 10.0 + seed, "s")
                add("cost", "parameters", 1234, "1", "theoretical")
                add("cost", "dense_bytes", 4936, "bytes", "on disk")
                for batch in (1, 64):
                    add("cost", f"latency_median_b{batch}", 1.5, "ms", n=99)
                    note = "no speed-up: runs dense" if order else "the reference itself"
                    add("cost", f"speedup_b{batch}", 1.0, "x", n=99, note=note)
    return Records(rows)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder of a report on everything."""
    folder = tmp_path_factory.mktemp("written")
    write_report(full(), folder, "everything")
    return folder


def cells(table: Table, label: str, density: str) -> dict[str, str]:
    """The texts of one row by heading."""
    name = ""
    for row in table.rows:
        name = row.label
        if name == label and row.cells[0].text == density:
            heads = [f"{head} {unit}".strip() for head, unit in table.heads]
            return dict(zip(heads, (c.plain for c in row.cells), strict=True))
    raise AssertionError(f"no row {label} {density} in {[r.label for r in table.rows]}")


class Page(HTMLParser):
    """What a browser would find: elements, ids, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids[value] += 1

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def runs(folder: Path, **by_name: list[Record]) -> None:
    for name, rows in by_name.items():
        (folder / name).mkdir(parents=True)
        write_jsonl(rows, folder / name / "records.jsonl")


def seed(number: int, **given) -> list[Record]:
    value = given.pop("value", 80.0 + number)
    return accuracies("dense", 0, 1.0, {number: 90.0}) + accuracies(
        "ticket", 1, 0.5, {number: value}, **given
    )


def lottery(early: dict[str, float], top1: dict[str, float]) -> Records:
    rows = []
    for series in early:
        here = {
            "series": series,
            "order": int(series != "dense"),
            "density": 1.0 if series == "dense" else 0.2,
        }
        for seed in (0, 1):
            rows.append(record(**here, seed=seed, value=top1[series] + seed))
            learning = {"probe": "learning", "seed": seed, "basis": "measured"}
            iteration = {
                "metric": "early_stop_iteration",
                "unit": "iterations",
                "value": early[series] + 10 * seed,
            }
            rows.append(record(**here, **learning, **iteration))
            by = {"metric": "validation_top1_by_reference_stop", "value": top1[series] - 3}
            rows.append(record(**here, **learning, **by))
    return Records(rows)
