"""What a newcomer brings: a module in a file, a folder of pictures, a criterion, a probe; each a file and a YAML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressbench.records import read_jsonl
from conftest import Command

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(128, outputs)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))
"""
MODEL = """
# mynet: my own network
name: mynet
build: {_target_: mynet.Net, channels: "@channels", outputs: "@classes"}
weights: null
"""
CRITERION = '''
def largest(given):
    """The opposite of magnitude: the largest weights go."""
    return {name: -w.abs() for name, w in given.weights.items()}
'''
CRITERION_YAML = """
# largest: the largest weights go, a bad idea
defaults: [_prune, _self_]
criterion: {_target_: mycriterion.largest, _partial_: true}
"""
PROBE = """
from dataclasses import dataclass
from compressbench.records import Metric

@dataclass(frozen=True)
class Confidence:
    scale: float = 100.0

    def measure(self, subject, reference, bench):
        top = subject.log_probs.exp().max(dim=1).values.mean()
        yield Metric("confidence", self.scale * float(top), "%", "measured", len(subject.labels))
"""
PROBE_YAML = """
# how_sure: mean probability of the predicted class
_target_: myprobe.Confidence
scale: 100.0
"""
RUN = ("run", "hardware=cpu1", "scale=smoke", "recipe=iterative_finetune", "--config-dir", "mine")


def lay(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))


def records_of(root: Path):
    (run,) = (root / "outputs" / "runs").iterdir()
    assert (run / "report.html").stat().st_size > 10_000
    return read_jsonl(run / "records.jsonl")


def test_own_module_and_own_pictures(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name, level in (("dark <b>", 60), ("light", 190)):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(level, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    data = "# mypics: my pictures\ndefaults: [/dataset/image_folder@_here_, _self_]\nname: mypics\n"
    lay(
        tmp_path,
        {
            "mynet.py": NET,
            "mine/model/mynet.yaml": MODEL,
            "mine/dataset/mypics.yaml": data + "read: {root: pictures, size: 16}\n",
        },
    )
    done = command(*RUN, "model=mynet", "dataset=mypics", "trust=[mynet]", "recipe.batch_size=16")
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path)
    assert {(r.model, r.dataset) for r in records} == {("mynet", "mypics")}
    assert records.where(metric="top1", series="dense", moment="final")[0].value == 100
    assert {r.group for r in records.where(metric="recall")} == {"dark <b>", "light"}
    page = next((tmp_path / "outputs" / "runs").glob("*/report.html")).read_text()
    assert "dark &lt;b&gt;" in page
    assert "dark <b>" not in page


def test_own_criterion_is_one_file_and_one_yaml(command: Command, tmp_path: Path) -> None:
    lay(tmp_path, {"mycriterion.py": CRITERION, "mine/stage/prune/largest.yaml": CRITERION_YAML})
    listed = command("list", "criteria", "--config-dir", "mine").stdout
    assert "largest" in listed
    assert "a bad idea" in listed
    done = command(
        *RUN,
        "stage/prune@recipe.stages.level.stages.prune=largest",
        "trust=[mycriterion]",
        "evaluation=quick",
        "recipe.compare.floor=false",
    )
    assert done.returncode == 0, done.stderr
    assert records_of(tmp_path).where(series="iterative", metric="top1")


def test_own_probe_is_one_file_and_one_yaml(command: Command, tmp_path: Path) -> None:
    lay(tmp_path, {"myprobe.py": PROBE, "mine/probe/how_sure.yaml": PROBE_YAML})
    done = command(
        *RUN,
        "+probe@evaluation.probes.how_sure=how_sure",
        "trust=[myprobe]",
        "evaluation=quick",
        "recipe.compare.floor=false",
    )
    assert done.returncode == 0, done.stderr
    found = records_of(tmp_path).where(probe="how_sure")
    assert len(found) == 5
    assert all(0 < r.value <= 100 for r in found)
    page = next((tmp_path / "outputs" / "runs").glob("*/report.html")).read_text()
    assert "confidence" in page


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compressbench

    monkeypatch.chdir(tmp_path)
    table = compressbench.run(
        "recipe=one_shot",
        "scale=smoke",
        "hardware=cpu1",
        "recipe.fractions=[0.5]",
        "evaluation=quick",
        "recipe.compare.floor=false",
    )
    assert len(table.where(metric="top1")) == 4
    assert "<table>" in table._repr_html_()
    assert json.dumps(table.dicts())
    with pytest.raises(compressbench.errors.UserError, match="no column"):
        table.where(metrik="top1")
