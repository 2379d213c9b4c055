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
TESTED = 200
SETTINGS = (
    "recipe=tiny_text", "scale=smoke", "hardware=cpu1", "dataset.train_size=1500", f"dataset.test_size={TESTED}",
    "dataset.task.vocabulary=1500", "model.build.dim=48", "model.build.depth=2", "model.build.mlp=96",
)  # fmt: skip


def run(folder: Path, probes: Sequence[str], *more: str) -> Path:
    """The folder of a finished run of ``tiny_text``; its states are dense, pruned, distilled, quantized."""
    from compressbench.cli.run import run_once

    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / "tiny_text.yaml").write_text(RECIPE)
    measured = [f"+probe@evaluation.probes.{p}={p}" for p in probes]
    run_once([*SETTINGS, *measured, f"outputs={folder}/out", *more], str(folder / "conf"))
    return next((folder / "out" / "runs").iterdir())
