"""``recipe.train``, the block that the trainings of a recipe share: who gets what, and that no recipe says it twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressbench.errors import UserError
from compressbench.specs.compose import SHARED, composed
from compressbench.specs.conf import conf_dir

RECIPES = sorted((conf_dir() / "recipe").glob("*.yaml"))
TRAININGS = sorted(p for p in (conf_dir() / "stage" / "train").glob("*.yaml") if not p.stem.startswith("_"))
# two methods that work at a rate of their own, whatever the trainings of a recipe share
OWN_RATE = {"qat": ("lr",), "shared": ("lr", "weight_decay"), "followed": ("lr", "weight_decay", "warmup")}
ONE = ("recipe=one_shot", "scale=smoke", "hardware=cpu1")
OLD = """
# old: a recipe from before there was a block
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - /stage/train@stages.stated: sgd
  - /stage/train@stages.adam: adam
  - _self_
name: old
length: 2ep
batch_size: 32
lr: 0.7
stages:
  dense: {length: "${recipe.length}"}
  stated: {length: "${recipe.length}", batch_size: "${recipe.batch_size}", lr: "${recipe.lr}"}
  adam: {length: 3it}
"""


def stages_of(*overrides: str, own: Path | None = None) -> dict[str, Any]:
    return composed(list(overrides), str(own) if own else None)["recipe"]["stages"]


def mine(folder: Path, text: str) -> Path:
    (folder / "recipe").mkdir()
    (folder / "recipe" / "old.yaml").write_text(text.lstrip("\n"))
    return folder


def said(value: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """(place, setting, value) of whatever the stages of a recipe's YAML say, as it is written."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield where, name, inner
            yield from said(inner, f"{where}.{name}")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_no_recipe_repeats_what_its_block_says(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    block = recipe["train"]
    assert "length" in block
    assert set(block) <= set(SHARED)
    repeated = [
        f"{place}.{name}"
        for place, name, value in said(recipe["stages"])
        if name in block and value in (block[name], f"${{recipe.train.{name}}}")
    ]
    assert repeated == []


@pytest.mark.parametrize("path", TRAININGS, ids=lambda p: p.stem)
def test_every_kind_of_training_takes_the_block(path: Path) -> None:
    given = {
        "length": "3it",
        "batch_size": 17,
        "lr": 0.031,
        "weight_decay": 0.0031,
        "warmup": "2it",
        "validate": "1it",
    }
    assert tuple(given) == SHARED
    block = yaml.safe_load((conf_dir() / "stage" / "train" / "_block.yaml").read_text())
    assert block == dict.fromkeys(SHARED, "default")
    needed = {
        "mimic": ["recipe.stages.dense.objective.points={a: b}"],
        "patient": ["recipe.stages.dense.objective.points={a: b}"],
        "followed": ["recipe.stages.dense.data=x"],
    }
    teacher = ["distill", "distill_adam", "mimic", "patient", "finetune_distill", "finetune_patient"]
    extra = needed.get(path.stem, []) + (
        ["recipe.stages.dense.objective.teacher=x"] if path.stem in teacher else []
    )
    overrides = [f"recipe.train.{name}={value}" for name, value in given.items()]
    dense = stages_of(*ONE, f"stage/train@recipe.stages.dense={path.stem}", *overrides, *extra)["dense"]
    own = OWN_RATE.get(path.stem, ())
    assert {n: dense[n] for n in SHARED if n not in own} == {n: v for n, v in given.items() if n not in own}
    assert all(dense[name] != given[name] for name in own)


@pytest.mark.parametrize(
    ("override", "dense", "finetune"),
    [
        # smoke: 3ep in batches of 64; SGD's own rate is 0.1; the fine-tuning says 1ep and 0.02
        ("seed=0", ("3ep", 64, 0.1), ("1ep", 64, 0.02)),
        ("recipe.train.lr=0.05", ("3ep", 64, 0.05), ("1ep", 64, 0.02)),
        ("recipe.train.batch_size=16", ("3ep", 16, 0.1), ("1ep", 16, 0.02)),
        ("recipe.train.length=2it", ("2it", 64, 0.1), ("1ep", 64, 0.02)),
        ("recipe.length=2it", ("2it", 64, 0.1), ("1ep", 64, 0.02)),
        ("recipe.batch_size=16", ("3ep", 16, 0.1), ("1ep", 16, 0.02)),
        ("recipe.stages.dense.lr=0.3", ("3ep", 64, 0.3), ("1ep", 64, 0.02)),
        ("recipe.stages.dense.length=4it", ("4it", 64, 0.1), ("1ep", 64, 0.02)),
        ("recipe.train.lr=default", ("3ep", 64, 0.1), ("1ep", 64, 0.02)),
        ("~recipe.train", ("9it", 128, 0.1), ("1ep", 128, 0.02)),
    ],
)
def test_a_stage_goes_before_the_block_and_the_block_before_the_kind(
    override: str, dense: tuple[str, int, float], finetune: tuple[str, int, float]
) -> None:
    more = ["recipe.stages.dense.length=9it"] if override == "~recipe.train" else []
    stages = stages_of(*ONE, override, *more)
    for stage, expected in (
        (stages["dense"], dense),
        (stages["magnitude"]["stages"]["finetune"], finetune),
        (stages["random"]["stages"]["finetune"], finetune),
    ):
        assert (stage["length"], stage["batch_size"], stage["lr"]) == expected


def test_a_recipe_without_a_block_is_what_it_was(tmp_path: Path) -> None:
    own = mine(tmp_path, OLD)
    for override, rate in (("seed=0", 0.1), ("recipe.train.lr=0.05", 0.05)):
        stages = stages_of("recipe=old", "scale=smoke", override, own=own)
        found = {n: (s["length"], s["batch_size"], s["lr"]) for n, s in stages.items() if n != "init"}
        assert found == {
            # its heads length, batch_size and lr go where it sends them, nowhere else
            "dense": ("2ep", 128, rate),
            "stated": ("2ep", 32, 0.7),
            "adam": ("3it", 60, 0.0012 if override == "seed=0" else rate),
        }


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            'dense: {length: "${recipe.length}"}',
            "dense: {}",
            r"recipe\.stages\.dense\.length: a value is needed; recipe\.train\.length",
        ),
        ("name: old", "name: old\ntrain: {lenght: 2ep}", "recipe.train: unknown key 'lenght'.*length"),
        ("name: old", "name: old\ntrain: {momentum: 0.5}", "recipe.train: unknown key 'momentum'"),
        ("name: old", "name: old\ntrain: sgd", "recipe.train: 'sgd' is no mapping"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(tmp_path: Path, before: str, after: str, message: str) -> None:
    own = mine(tmp_path, OLD.replace(before, after, 1))
    with pytest.raises(UserError, match=message):
        composed(["recipe=old", "scale=smoke"], str(own))


def test_null_is_a_word_like_any_other() -> None:
    assert (
        stages_of(*ONE, "stage/train@recipe.stages.dense=adamw", "recipe.train.warmup=3it")["dense"]["warmup"]
        == "3it"
    )
    assert stages_of("recipe=lth_vgg", "scale=smoke")["dense"]["warmup"] == "4it"
    assert stages_of("recipe=lth_vgg", "scale=smoke", "recipe.train.warmup=null")["dense"]["warmup"] is None
    assert stages_of(*ONE, "recipe.batch_size=null")["dense"]["batch_size"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.train.lr=${recipe.stages.dense.lr}", r"^recipe\.train(\.lr)?: it refers to itself$"),
        ("recipe.train=null", "recipe.stages.dense.length: a value is needed"),
        ("recipe.train.length=???", r"^recipe\.train\.length: a value is needed$"),
        ("recipe.train.nope=1", "unknown key 'recipe.train.nope'; known: batch_size"),
        ("+recipe.train.nope=1", "recipe.train: unknown key 'nope'; known: batch_size"),
    ],
)
def test_odd_words_on_the_command_line_are_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        composed([*ONE, override])
    assert "\n" not in str(told.value)


def test_explain_names_what_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    from compressbench.cli.explain import main

    assert main(["one_shot", "scale=smoke", "recipe.train.lr=0.05"]) == 0
    shown = capsys.readouterr().out
    assert "recipe.train" in shown
    assert "length 3ep, batch_size 64, lr 0.05" in shown
    assert "warmup" not in shown
