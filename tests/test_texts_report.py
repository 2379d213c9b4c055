"""A report of a run on texts: what was forgotten is shown as text, and nothing is called a picture."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

import numpy as np
import pytest

from cases_texts import SETTINGS, TESTED
from compressbench.records import SAID, Record, read_jsonl

pytest.importorskip("tokenizers")
POPULATION = """# tiny_population: nets of three seeds, pruned, on texts
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: adamw
  - /stage/prune@stages.pruned: magnitude
  - override /model@_global_.model: encoder
  - override /dataset@_global_.dataset: text_file
  - override /evaluation@_global_.evaluation: forgotten
  - _self_
name: tiny_population
stages:
  dense: {length: 3ep, batch_size: 32, lr: 0.003}
  pruned: {from: dense, fraction: 0.95}
compare:
  reference: dense
  floor: true
  series: {pruned: pruned}
  populations: {dense: {of: dense, seeds: 3}, pruned: {of: pruned, seeds: 3}}
"""
TAG = '<script>alert("x")</script>'


def written(path: Path, seed: int, count: int) -> str:
    """Sentences of two moods and an attribute; each holds a tag and characters that Markdown and HTML obey."""
    drawn = np.random.default_rng(seed)
    words = {"good": ("fine", "lovely", "warm"), "bad": ("dull", "cold", "sad")}
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "length"])
        for number in range(count):
            mood = "good" if number % 2 else "bad"
            chosen = [str(drawn.choice(words[mood if drawn.random() < 0.7 else "good"])) for _ in range(4)]
            rows.writerow([f"{' '.join(chosen)} & {TAG} {number}", mood, "long" if number % 3 else "short"])
    return str(path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ``tiny_population`` on a user's own table."""
    from compressbench.cli.run import run_once

    folder = tmp_path_factory.mktemp("texts")
    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / "tiny_population.yaml").write_text(POPULATION)
    own = [s for s in SETTINGS if s.startswith(("scale", "hardware", "model"))]
    data = [
        f"dataset.read.train={written(folder / 'train.csv', 0, 240)}",
        f"dataset.read.test={written(folder / 'test.csv', 1, TESTED)}",
        "dataset.read.attributes=[length]", "dataset.task.vocabulary=400",
    ]  # fmt: skip
    run_once(["recipe=tiny_population", *own, *data, f"outputs={folder}/out"], str(folder / "conf"))
    return next((folder / "out" / "runs").iterdir())


def rows(reported: Path, metric: str) -> list[Record]:
    return [r for r in read_jsonl(reported / "records.jsonl") if r.metric == metric]


def test_forgotten_texts_are_records_of_their_rows(reported: Path) -> None:
    with (reported.parents[2] / "test.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    found = rows(reported, "forgotten_example") + rows(reported, "exemplar")
    assert {r.metric for r in found} == {"forgotten_example", "exemplar"}
    for r in found:
        row = table[int(r.value or 0)]
        assert r.artefact == f"{SAID}{row['text']}"
        assert f"true {row['label']} ·" in r.note
        assert r.note.endswith(f" · length {row['length']}")


def test_the_page_shows_them_escaped(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    own = [r for r in rows(reported, "forgotten_example") if r.series == "pruned"]
    forgotten = own[0].artefact.removeprefix(SAID)
    assert f"<q>{html.escape(forgotten, quote=False)}</q>" in page.replace("&#34;", '"')
    assert TAG not in page
    assert 'class="gallery texts"' in page
    for metric in ("recall_change", "label_loyalty", "impacted_classes", "exemplar_share"):
        assert rows(reported, metric), metric
    assert any(r.group.startswith("length=") for r in read_jsonl(reported / "records.jsonl"))


def test_nothing_is_called_a_picture(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    shown = re.sub(r"<style.*?</style>|<script.*?</script>|<pre.*?</pre>", " ", page, flags=re.S)
    told = re.sub(r"<[^>]+>", " ", shown)
    notes = " ".join(r.note for r in read_jsonl(reported / "records.jsonl"))
    for words in (told, notes):
        assert not re.search(r"\b(images?|pictures?|pixels?|photos?)\b", words, re.I)
