"""Advice that ends in a file: what is written is what a limit on bytes judges."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from compressbench.deploying.measured import choices
from compressbench.records import read_jsonl, write_jsonl

RECIPE = """# tiny_two: a net pruned, and one in eight bits
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - /stage/prune@stages.pruned: magnitude
  - /stage/quantize@stages.quantized: ptq
  - override /model@_global_.model: lenet_300_100
  - override /dataset@_global_.dataset: digits
  - _self_
name: tiny_two
stages:
  dense: {length: 1ep, batch_size: 64}
  pruned: {from: dense, fraction: 0.98}
  quantized: {from: dense}
compare: {reference: dense, floor: false, series: {pruned: pruned, 8 bits: quantized}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a pruned and a quantized state: its folder."""
    from compressbench.cli.run import run_once

    folder = tmp_path_factory.mktemp("run")
    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / "tiny_two.yaml").write_text(RECIPE)
    probes = ["evaluation=none", *(f"+probe@evaluation.probes.{p}={p}" for p in ("accuracy", "cost"))]
    run_once(
        ["recipe=tiny_two", "scale=smoke", "hardware=cpu1", *probes, f"outputs={folder}/out"],
        str(folder / "conf"),
    )
    return next((folder / "out" / "runs").iterdir())


@pytest.fixture(autouse=True)
def nothing_written(finished: Path) -> None:
    shutil.rmtree(finished / "export", ignore_errors=True)


def sizes(finished: Path) -> dict[str, float]:
    found = choices(read_jsonl(finished / "records.jsonl"))
    return {c.state: c.figures["bytes"].mean for c in found}


def test_without_a_file_bytes_say_which_encoder_they_are_of(finished: Path, command) -> None:
    done = command("advise", str(finished))
    assert done.returncode == 0, done.stderr
    coded = sizes(finished)["quantized"]
    assert f"8 bits: {coded:,.0f} bytes, Huffman-coded\n" in done.stdout
    assert re.search(r"pruned: [\d,]+ bytes, zeros left out\n", done.stdout)
    (note,) = [line for line in done.stdout.splitlines() if "encoder" in line]
    assert all(words in note for words in ("Huffman-coded", "zeros left out", "no exporter writes them"))


def test_the_limit_judges_the_file_that_is_written(finished: Path, command) -> None:
    """Of a run whose pruned state were the best: 98 % zeros are short by our encoder, as safetensors they are as long."""
    run = finished.with_name("pruned_is_best")
    shutil.copytree(finished, run)
    rows = read_jsonl(run / "records.jsonl")
    lifted = [replace(r, value=99.0) if (r.state, r.metric) == ("pruned", "top1") else r for r in rows]
    write_jsonl(lifted, run / "records.jsonl")
    limit, held = 100_000, sizes(finished)
    assert max(held["pruned"], held["quantized"]) < limit
    done = command("advise", str(run), "--max-bytes", str(limit), "--export", "safetensors")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"pruned, seed 0: as safetensors 20\d,\d{3} bytes, above 100,000; deleted again", done.stdout
    )
    written = sorted(p.name for p in (run / "export").iterdir())
    assert written == ["quantized.safetensors", "quantized.safetensors.md"]
    size = (run / "export" / "quantized.safetensors").stat().st_size
    assert held["quantized"] < size <= limit
    assert f"{size:,} bytes" in done.stdout
    assert not list(run.glob(".export-*"))


def test_no_file_keeps_to_the_limit(finished: Path, command) -> None:
    """Our own encoders' bytes would: they are no file."""
    limit = int(max(sizes(finished)["quantized"], sizes(finished)["pruned"])) + 1
    (finished / "export").mkdir()
    (finished / "export" / "quantized.safetensors").write_text("mine")
    done = command("advise", str(finished), "--max-bytes", str(limit), "--export", "safetensors")
    assert done.returncode == 1
    said = re.findall(r"(8 bits|pruned), seed 0: as safetensors ([\d,]+) bytes, above", done.stdout)
    assert {name for name, _ in said} == {"8 bits", "pruned"}
    shortest = min((size for _, size in said), key=lambda s: int(s.replace(",", "")))
    assert (
        f"no state within the limits is that short as safetensors; the shortest has {shortest} bytes"
        in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert [p.name for p in (finished / "export").iterdir()] == ["quantized.safetensors"]
    assert (finished / "export" / "quantized.safetensors").read_text() == "mine", "an earlier file stays"
