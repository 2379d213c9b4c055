"""What several files of tests on choosing have together."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases_report import record
from compressbench.deploying.choice import Choice, Figure
from compressbench.deploying.measured import choices
from compressbench.records import Records, write_jsonl


def rows(**states: dict[str, float | tuple[float, ...]]) -> Records:
    """Records of states: a figure by its name, of two seeds (the second is 1 more) or of as many as a tuple has."""
    found = []
    for order, (series, figures) in enumerate(states.items()):
        for probe, metric, key, unit, group in (
            ("accuracy", "top1", "accuracy", "%", ""),
            ("loyalty", "label_loyalty", "loyalty", "%", ""),
            ("cost", "dense_bytes", "bytes", "bytes", ""),
            ("cost", "huffman_bytes", "huffman", "bytes", ""),
            ("targets", "latency_b1", "latency", "ms", "board"),
            ("targets", "speedup_b1", "speedup", "x", "board"),
            ("targets", "speedup_low_b1", "low", "x", "board"),
            ("targets", "speedup_high_b1", "high", "x", "board"),
            ("targets", "file_bytes", "file", "bytes", "board"),
            ("forgetting", "recall_change", "recall", "points", "cat"),
            ("forgetting", "recall_change", "dog", "points", "dog"),
            ("forgetting", "recall_change", "owl", "points", "owl"),
        ):
            if key not in figures:
                continue
            given = figures[key]
            values = given if isinstance(given, tuple) else (given, given + 1)
            for seed, value in enumerate(values):
                found.append(
                    record(
                        series=series,
                        state=series,
                        order=order,
                        seed=seed,
                        key=f"{series}{seed}",
                        reference=f"dense{seed}",
                        probe=probe,
                        metric=metric,
                        value=value,
                        unit=unit,
                        group=group,
                    )
                )
    return Records(found)


THREE = rows(
    dense={
        "accuracy": 90, "loyalty": 99, "bytes": 1000, "recall": 0, "dog": 0,
        "latency": (8.0, 8.0), "speedup": (1.0, 1.0),
    },
    small={
        "accuracy": 88, "loyalty": 95, "bytes": 100, "recall": -5, "dog": -1,
        "latency": (5.0, 1.0), "speedup": (2.0, 4.0), "low": (1.9, 3.9), "high": (2.1, 4.1),
    },
    worse={
        "accuracy": 80, "loyalty": 90, "bytes": 200, "recall": -20, "dog": -21,
        "latency": (1.0, 1.0), "speedup": (1.6, 1.6), "low": (1.5, 1.5), "high": (1.7, 1.7),
    },
)  # fmt: skip


def one(name: str, seed: int = 0, **figures: float) -> Choice:
    """A choice of one seed; what is exact."""
    found = {
        k: Figure({seed: v}, {seed: (v, v)}, {seed: ("modelled", 1.0)} if k == "latency" else {})
        for k, v in figures.items()
    }
    return Choice(name, "r", name, found, (seed,))


def state(found: Records, name: str) -> Choice:
    return next(c for c in choices(found, "board") if c.name == name)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(THREE, folder / "records.jsonl")
    return folder
