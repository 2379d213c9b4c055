"""docs/hugging_face.md: a folder and texts of one's own, by under 15 lines of YAML, to the whole report."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from compressbench.cli.main import main
from compressbench.records import read_jsonl
from folders import TEXTS, a_folder

PAGE = Path(__file__).parents[1] / "docs" / "hugging_face.md"


@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="docs are not here")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML as it stands, the command as it stands but for lengths and probes."""
    pytest.importorskip("transformers", reason="transformers isn't installed")
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(r"```yaml\n# (mine/\S+)\n(.*?)```", text, re.S)
    command = re.search(r"^    compressbench run (recipe=small_bert .*)$", text, re.M)
    assert block is not None
    assert command is not None
    assert len(block[2].splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / block[1]
    recipe.parent.mkdir(parents=True)
    recipe.write_text(block[2], encoding="utf-8")
    a_folder(tmp_path / "bert")
    with (tmp_path / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([text, i % 2] for i, text in enumerate(TEXTS * 3))
    short = ["scale=smoke", "dataset.task.length=12", "recipe.length=4it", "recipe.finetune=2it",
             "recipe.fractions=[0.5]", "evaluation=quick", "hardware=cpu1", "outputs=out"]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["run", *command[1].split(), *short])
    assert left.value.code == 0
    records = read_jsonl(next((tmp_path / "out").rglob("records.jsonl")))
    series = {r.series for r in records if r.metric == "top1"}
    assert {"dense", "one-shot", "random", "8 bits"} <= series
    assert (next((tmp_path / "out").rglob("report.html"))).stat().st_size > 10_000
