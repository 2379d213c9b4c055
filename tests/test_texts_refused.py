"""Texts where pictures are meant and the other way round, texts that are cut, empty ones: one line each, or an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from compressbench.bench import Bench
from compressbench.cli.data import main as data_command
from compressbench.cli.run import composed
from compressbench.cli.terminal import Terminal
from compressbench.data import texts
from compressbench.data.load import load, remarks
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.models.encoder import TextEncoder
from compressbench.runs.experiment import prepare, unmeasured
from compressbench.tasks.text.classification import text_classification
from compressbench.tasks.text.packing import unpacked
from compressbench.views import View
from test_texts_training import ENCODER

pytest.importorskip("tokenizers")
TEXTS = ["dataset=glosses", "dataset.train_size=200", "dataset.test_size=60", "dataset.validation=40",
         "dataset.task.vocabulary=400", "scale=smoke"]  # fmt: skip
SMALL = [
    "model=encoder",
    "model.build.dim=16",
    "model.build.depth=2",
    "model.build.heads=2",
    "model.build.mlp=32",
]


def test_an_empty_text_and_a_row_of_padding_are_answered_like_any() -> None:
    some = texts.examples(["", "a bird", "   ", "the red fish and the bird"], np.zeros(4, int))
    task = text_classification(some, ("a", "b", "c"), length=16, vocabulary=300)
    torch.manual_seed(0)
    net = TextEncoder(300, 3, 16, dim=16, depth=2, heads=2, mlp=32).eval()
    ids, mask = task.encode(task.prepared(some).to("cpu"))
    assert ids.dtype == mask.dtype == torch.int64
    assert mask.sum(1).tolist()[0] == 2  # [CLS] [SEP]
    nothing = torch.cat([ids, torch.zeros_like(ids[:1])]), torch.cat([mask, torch.zeros_like(mask[:1])])
    with torch.no_grad():
        found = net(*nothing)
        assert torch.isfinite(found).all()
        assert torch.allclose(found[:4], net(ids, mask), atol=1e-5)
        # of no token at all the mean is nothing, so that only the classifier's bias is left, however much is padded
        assert torch.allclose(found[4], net.fc.bias)
    net.train()
    net(*nothing).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_pad_that_is_looked_at_would_change_the_answer() -> None:
    net = TextEncoder(300, 3, 16, dim=16, depth=2, heads=2, mlp=32).eval()
    ids = torch.tensor([[5, 6, 7, 0]])
    with torch.no_grad():
        seen, unseen = (net(ids, torch.tensor([[1, 1, 1, last]])) for last in (1, 0))
    assert not torch.allclose(seen, unseen, atol=1e-4)


def own(folder: Path, **task: Any) -> dict[str, Any]:
    """Forty texts of one word or of eight, told apart by a word."""
    lines = [
        {
            "text": " ".join(["red", "blue"][i % 2] for _ in range(8 if i % 4 == 0 else 1)),
            "label": "xy"[i % 2],
        }
        for i in range(40)
    ]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "name": "own",
        "read": {
            "_target_": "compressbench.data.texts.text_file", "train": str(path), "test_fraction": 0.25,
        },
        "task": {
            "_target_": "compressbench.tasks.text.classification.text_classification",
            "length": 6, "vocabulary": 300, **task,
        },
    }  # fmt: skip


def test_longer_texts_are_cut_and_counted_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load(own(tmp_path))
    counts = {
        name: sum(text.count(" ") == 7 for text in unpacked(split["text"]))
        for name, split in dataset.splits.items()
    }
    assert sum(counts.values()) == 10
    told = ", ".join(f"{counts[n]} of {len(dataset.splits[n])} {n}" for n in ("train", "test"))
    wanted = f"longer than 6 tokens and cut there: {told} examples"
    assert remarks(dataset) == (wanted,)
    assert np.diff(dataset.split("train")["ids"].starts).max() == 6
    assert remarks(load(own(tmp_path, length=12))) == ()
    with pytest.raises(UserError, match=f"{counts['train']} of 30 texts have more than 6 tokens.*longer=cut"):
        load(own(tmp_path, longer="refuse"))
    load(own(tmp_path, longer="refuse", length=12))
    with pytest.raises(UserError, match="longer is 'drop'"):
        load(own(tmp_path, longer="drop"))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text(json.dumps(own(tmp_path)))
    assert data_command(["mine", "--config-dir", str(tmp_path)]) == 0
    assert f"L{wanted[1:]}." in " ".join(capsys.readouterr().out.split())


def test_texts_of_a_language_model_are_counted_too(tmp_path: Path) -> None:
    config = own(tmp_path)
    config["read"] |= {"test_fraction": None, "test": config["read"]["train"]}
    config["task"] = {
        "_target_": "compressbench.tasks.text.next_token.next_token",
        "length": 6,
        "vocabulary": 300,
    }
    # ten of the forty have eight words, the others one; tokens of a word are one, or few bytes
    assert remarks(load(config))[0].startswith(
        "longer than 6 tokens and cut there: 10 of 40 train, 10 of 40 test"
    )


def test_pairs_that_are_cut_are_counted() -> None:
    some = texts.examples(["red"] * 3, np.zeros(3, int), ["blue", "blue " * 9, "blue blue"])
    task = text_classification(some, ("a", "b"), length=40, vocabulary=300)
    long, longest = sorted(np.diff(task.prepared(some)["ids"].starts).tolist())[1:]
    assert longest < 40
    fitting = text_classification(some, ("a", "b"), length=long, vocabulary=300)
    assert fitting.prepared(some)["cut"].tolist() == [0, 1, 0]  # the last one fits to the token


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["recipe=one_shot", *TEXTS], r"model resnet8 asks for @shape, .* texts of up to 32 tokens.*: .*encoder"),
        (["recipe=one_shot", *TEXTS, "model=vit"], "model vit asks for @shape"),
        (["recipe=one_shot", *TEXTS, *SMALL, "model.build.classes='@clases'"], "'@clases' is not known; .*@classes"),
        (["recipe=distill_resnet", *TEXTS], "asks for @shape"),
        (["recipe=one_shot", "scale=smoke", *SMALL], "@length, @segments, @vocabulary, .*1 x 8 x 8.*conv_2"),
        (["recipe=one_shot", *TEXTS, *SMALL, "+dataset.augment={flip: true}"], "dataset.augment is for pictures"),
        (["recipe=one_shot", *TEXTS, *SMALL, "dataset.task.length=2"], "length is 2"),
    ],
)  # fmt: skip
def test_pictures_and_texts_are_not_taken_for_each_other(given: list[str], said: str, tmp_path: Path) -> None:
    """Refused before anything is made."""
    with pytest.raises(UserError, match=said) as refused:
        prepare(composed([*given, f"outputs={tmp_path}"]))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_is_not_measured_on_texts_is_said_before_the_run(tmp_path: Path) -> None:
    given = [
        "recipe=one_shot",
        *TEXTS,
        *SMALL,
        f"outputs={tmp_path}",
        "evaluation=full",
        "dataset.task.length=8",
    ]
    ready = prepare(composed(given))
    silent = unmeasured(ready)
    assert {"robustness", "corruptions"} <= set(silent)
    assert not {"accuracy", "loyalty", "forgetting", "subgroups", "cost"} & set(silent)
    out = io.StringIO()
    Terminal(Console(file=out, width=200)).plan(ready)
    told = [line for line in out.getvalue().splitlines() if line.startswith("not measured: ")]
    assert any("robustness" in line and "a text can't be changed a little" in line for line in told)
    assert any("corruptions" in line and "of pictures" in line for line in told)
    assert "glosses: longer than 8 tokens and cut there: " in out.getvalue()
    assert not unmeasured(prepare(composed(["recipe=one_shot", "scale=smoke", f"outputs={tmp_path}"])))


def test_what_cannot_be_measured_says_so_in_its_records() -> None:
    from compressbench import specs
    from compressbench.specs.conf import conf_dir

    config = composed(["recipe=one_shot", *TEXTS, *SMALL])
    bench = Bench(load(config["dataset"]), seed=0, name="init", say=lambda text: None)
    view = View(drawn(ENCODER, bench), bench)
    tried = 0
    for name in (
        "robustness",
        "square",
        "shifted",
        "corruptions",
        "autoattack",
        "natural_adversarial",
        "shifted_sets",
    ):
        assert (conf_dir() / "probe" / f"{name}.yaml").is_file()
        spec = composed([f"+probe@evaluation.probes.{name}={name}", "recipe=one_shot", "evaluation=none"])[
            "evaluation"
        ]["probes"][name]
        probe = specs.build(spec, name)
        found = list(probe.measure(view, view, bench))
        assert found, name
        assert all(m.value is None for m in found), name
        assert {m.note for m in found} == {probe.unfit(bench.dataset)}, name
        tried += 1
    assert tried == 7
