"""A table of one's own, and a model's folder, through one-shot pruning, rounding and the report by a few lines."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from compressbench.cli.run import run_once
from compressbench.errors import UserError
from compressbench.records import Records

pytest.importorskip("tokenizers")
DOCS = Path(__file__).parents[1] / "docs"
WORDS = ("bad", "poor", "fine", "good", "great")
FILL = ("the", "of", "it", "was", "shop", "food", "very", "box", "came", "with", "and", "day")
SHORT = ["recipe.fractions=[0.5,0.9]", "scale=smoke", "hardware=cpu1", "dataset.task.vocabulary=400"]


def reviews(path: Path) -> None:
    """Five hundred reviews with a word that tells the stars, in the layout of the page."""
    rng = np.random.RandomState(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "stars", "shop"])
        for i in range(500):
            text = [*rng.choice(FILL, rng.randint(3, 12)), WORDS[i % 5]]
            rng.shuffle(text)
            writer.writerow([f'{" ".join(text)}, they "said"', i % 5 + 1, ("north", "south")[i // 5 % 2]])


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The files of the page, laid out, with the table where its dataset looks for it."""
    text = (DOCS / "own_texts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"`(mine/[\w/]+\.yaml)`[^\n]*\n+```yaml\n(.*?)```", text, re.S)
    assert [name for name, _ in blocks] == ["mine/dataset/reviews.yaml", "mine/recipe/reviews.yaml"]
    lines = [x for _, content in blocks for x in content.splitlines() if not x.startswith("#")]
    assert len(lines) < 15
    reviews(tmp_path / "reviews.csv")
    for name, content in blocks:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content.replace("/home/me/reviews.csv", str(tmp_path / "reviews.csv")))
    return tmp_path / "mine"


def value(records: Records, metric: str, series: str, group: str = "") -> float:
    found = records.where(metric=metric, series=series, group=group, moment="final")
    assert len(found) >= 1, (metric, series, group)
    assert found[0].value is not None
    return float(found[0].value)


def test_a_table_of_ones_own_by_the_page(mine: Path, tmp_path: Path) -> None:
    records = run_once(["recipe=reviews", "evaluation=quick", *SHORT, f"outputs={tmp_path / 'o'}"], str(mine))
    assert value(records, "top1", "dense") > 50  # of five stars
    assert value(records, "top1", "int8") > 50
    assert value(records, "label_loyalty", "int8") > 90
    assert {r.series for r in records} >= {"dense", "one-shot", "random", "int8", "floor"}
    assert {r.group for r in records.where(metric="recall", series="int8")} >= {"1", "2", "3", "4", "5"}
    report = next((tmp_path / "o").rglob("report.html")).read_text(encoding="utf-8")
    assert "int8" in report
    assert "reviews" in report


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dataset.read.text=comment", r"reviews\.csv has no column 'comment' \(text\); it has review, stars, shop"),
        ("dataset.read.attributes=[town]", r"has no column 'town' \(attributes\)"),
        ("dataset.task.longer=refuse", "texts have more than 4 tokens"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(mine: Path, tmp_path: Path, given: str, said: str) -> None:
    short = ["dataset.task.length=4"] if "longer" in given else []
    with pytest.raises(UserError, match=said) as refused:
        run_once(["recipe=reviews", *SHORT, f"outputs={tmp_path / 'o'}", given, *short], str(mine))
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "o").rglob("*.safetensors"))


def test_a_label_unseen_in_training_is_said_in_a_line(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("review,stars,shop\nthe shop was good,6,north\n")
    given = [f"dataset.read.test={tmp_path / 'test.csv'}", "dataset.read.test_fraction=null"]
    with pytest.raises(UserError, match=r"test\.csv: label '6' is none of the classes: 1, 2, 3, 4, 5"):
        run_once(["recipe=reviews", *SHORT, f"outputs={tmp_path / 'o'}", *given], str(mine))


def test_a_models_folder_takes_the_place_of_the_encoder(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from folders import a_folder

    folder = a_folder(tmp_path / "bert", "Bert")
    given = [
        "model=hf",
        f"model.build.folder={folder}",
        "recipe.lr=0.003",
        "recipe.finetune_lr=0.001",
        "dataset.task.length=20",
    ]
    records = run_once(
        ["recipe=reviews", "evaluation=quick", *SHORT, *given, f"outputs={tmp_path / 'o'}"], str(mine)
    )
    assert value(records, "label_loyalty", "int8") > 80
    assert {r.series for r in records} >= {"dense", "one-shot", "random", "int8", "floor"}
