"""A tiny run on texts, for tests of what comes after the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RECIPE = """# tiny_text: an encoder pruned, distilled and rounded to eight bits, tables too
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: adamw
  - /stage/prune@stages.pruned: magnitude
  - /stage/train@stages.distilled: distill_adam
  - /stage/quantize@stages.quantized: ptq
  - override /model@_global_.model: encoder
  - override /dataset@_global_.dataset: glosses
  - override /evaluation@_global_.evaluation: none
  - _self_
name: tiny_text
stages:
  dense: {length: 3ep, batch_size: 32, lr: 0.003}
  pruned: {from: dense, fraction: 0.5}
  distilled: {length: 1ep, batch_size: 32, lr: 0.001, objective: {teacher: dense}}
  quantized: {layers: {"@embeddings": {weights: 8}}}
compare: {reference: dense, floor: false, series: {pruned: pruned, 8 bits: quantized}}
"""
MINILM = (
    RECIPE.replace("tiny_text", "tiny_minilm")
    .replace("model: encoder", "model: minilm")
    .replace("/stage/prune@stages.pruned: magnitude", "/stage/shrink@stages.pruned: heads")
    .replace("fraction: 0.5}", "fraction: 0.25, criterion: magnitude}")
    .replace("length: 3ep", "length: 24it")
    .replace("length: 1ep", "length: 12it")
    .replace("lr: 0.003", "lr: 0.0003")
    .replace("lr: 0.001", "lr: 0.0001")
    .replace("pruned: pruned, ", "")
)
"""The same of MiniLM, a quarter of its heads removed."""
TESTED = 200
SETTINGS = (
    "recipe=tiny_text", "scale=smoke", "hardware=cpu1", "dataset.train_size=1500", f"dataset.test_size={TESTED}",
    "dataset.task.vocabulary=1500", "model.build.dim=48", "model.build.depth=2", "model.build.mlp=96",
)  # fmt: skip


SMALL = ("recipe=tiny_minilm", *(s for s in SETTINGS[1:] if not s.startswith(("model", "dataset.task"))))


def run(
    folder: Path, probes: Sequence[str], recipe: str = RECIPE, settings: Sequence[str] = SETTINGS
) -> Path:
    """The folder of a finished run; its states are dense, pruned, distilled, quantized."""
    from compressbench.cli.run import run_once

    name = settings[0].partition("=")[2]
    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / f"{name}.yaml").write_text(recipe)
    measured = [f"+probe@evaluation.probes.{p}={p}" for p in probes]
    run_once([*settings, *measured, f"outputs={folder}/out"], str(folder / "conf"))
    return next((folder / "out" / "runs").iterdir())
