"""Texts compared: states and files of a run, a user's table, folders of Hugging Face, predictions with the texts."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases_texts import TESTED, run
from compressbench.artefacts import predictions
from compressbench.artefacts.artefact import Given, Input, Wanted
from compressbench.artefacts.reading import Reading, of_folder
from compressbench.comparing import material
from compressbench.errors import UserError
from compressbench.records import read_jsonl
from compressbench.tasks.text.tokens import trained

pytest.importorskip("tokenizers")
SOME = [
    "a red fish",
    "the blue bird sings",
    "Ein großer Vogel",
    "鳥 is a bird",
    "",
    "fish fish fish bird " * 9,
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of ``tiny_text``."""
    pytest.importorskip("onnxruntime")
    return run(tmp_path_factory.mktemp("text"), ("accuracy", "loyalty"))


@pytest.fixture(scope="module")
def table(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the run was tested on, as a user's CSV; labels by their names, two columns more."""
    from compressbench.runs import finished as runs

    view, _ = runs.view_of(runs.opened(finished), "dense")
    split = view.bench.dataset.splits["test"]
    task: Any = view.bench.task
    path = tmp_path_factory.mktemp("table") / "definitions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["gloss", "Kind", "initial"])
        for text, label in zip(task.texts(split)["text"], split.labels.tolist(), strict=True):
            rows.writerow([text, task.classes[label].upper(), text[:1]])
    return path


def compared(command: Any, tmp_path: Path, *args: str) -> tuple[dict[str, Any], Path]:
    """(the JSON of a comparison, the folder of its page)."""
    told = tmp_path / "told.json"
    done = command("compare", *args, "--json", str(told), "--outputs", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    return json.loads(told.read_text()), next((tmp_path / "out" / "compared").iterdir())


def recorded(finished: Path, metric: str, state: str) -> float:
    (row,) = [
        r
        for r in read_jsonl(finished / "records.jsonl")
        if (r.metric, r.state, r.group) == (metric, state, "")
    ]
    assert row.value is not None
    return row.value


@pytest.mark.slow
def test_two_states_say_what_the_run_recorded(finished: Path, tmp_path: Path, command: Any) -> None:
    data = ["--data", "dataset=glosses", f"dataset.test_size={TESTED}", "dataset.task.vocabulary=900"]
    found, page = compared(command, tmp_path, f"{finished}::dense", f"{finished}::pruned", *data)
    (one,) = found["comparisons"]
    assert one["accuracy"]["before"]["value"] == pytest.approx(recorded(finished, "top1", "dense"))
    assert one["accuracy"]["after"]["value"] == pytest.approx(recorded(finished, "top1", "pruned"))
    agree = 100 * (1 - one["counts"]["changed"] / TESTED)
    assert agree == pytest.approx(recorded(finished, "label_loyalty", "pruned"))
    assert not found["fragility"]["tested"]
    assert "the data are texts" in found["fragility"]["words"][0]
    assert {g["name"] for g in one["groups"]["kind"]} > {"other"}
    text = (page / "compare.html").read_text()
    assert one["flips"][0]["text"] in text
    with (page / "flips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [flip["text"] for flip in one["flips"]]
    assert not re.search(r"\b(image|pixel)s?\b", re.sub(r"<style.*?</style>", "", text, flags=re.S))


@pytest.mark.slow
def test_a_file_against_its_state_on_a_users_table(
    finished: Path, table: Path, tmp_path: Path, command: Any
) -> None:
    """Labels are names here, in capitals; the file's tokens are those of the tokenizer beside it."""
    done = command(
        "export", str(finished), "--state", "quantized", "--to", "onnx", "--output", str(tmp_path / "f")
    )
    assert done.returncode == 0, done.stderr
    file = tmp_path / "f" / "quantized.onnx"
    found, _ = compared(
        command, tmp_path, f"{finished}::quantized", str(file), "--data", str(table), "label=Kind"
    )
    (one,) = found["comparisons"]
    assert one["accuracy"]["before"]["value"] == pytest.approx(recorded(finished, "top1", "quantized"))
    assert one["accuracy"]["after"]["value"] == pytest.approx(recorded(finished, "top1", "quantized"))
    assert one["counts"]["changed"] == 0
    assert one["layers"]["words"]
    (tmp_path / "f" / "tokenizer.json").unlink()
    done = command("compare", str(file), str(file), "--data", str(table), "label=Kind")
    assert done.returncode == 2
    assert "quantized.onnx: how texts become its inputs isn't known: no tokenizer.json" in done.stderr


def test_predictions_with_texts(tmp_path: Path, command: Any) -> None:
    texts = ["so <b>bold</b> & good", "=1+1", 'a "quoted" one', "plain"]
    labels, first = [0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]
    second = [[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]]
    with (tmp_path / "one.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "bad", "good"])
        rows.writerows([text, label, *p] for text, label, p in zip(texts, labels, first, strict=True))
    lines = [
        {"text": t, "label": k, "probabilities": p} for t, k, p in zip(texts, labels, second, strict=True)
    ]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, page = compared(command, tmp_path, str(tmp_path / "one.csv"), str(tmp_path / "two.jsonl"))
    (one,) = found["comparisons"]
    assert [(f["text"], f["kind"]) for f in one["flips"]] == [
        (texts[0], "right to wrong"), (texts[3], "right to wrong"),
    ]  # fmt: skip
    assert one["accuracy"]["before"]["value"] == 100
    assert one["accuracy"]["after"]["value"] == 50
    html = (page / "compare.html").read_text()
    assert "so &lt;b&gt;bold&lt;/b&gt; &amp; good" in html
    assert "<b>bold" not in html


def folder_of(path: Path, seed: int, classes: Sequence[str], texts: Sequence[str]) -> Path:
    """A model of transformers' with drawn weights, and a tokenizer trained on some texts."""
    transformers = pytest.importorskip("transformers")
    tokenizer = trained(texts, 300)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=tokenizer.size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, initializer_range=0.5,
        id2label=dict(enumerate(classes)), label2id={name: k for k, name in enumerate(classes)},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    (path / "tokenizer.json").write_text(tokenizer.json)
    return path


def test_folders_of_hugging_face_read_texts_in_tokens_of_their_own(tmp_path: Path, command: Any) -> None:
    from transformers import BertForSequenceClassification

    texts = [f"{word} fish number {k}" for k in range(20) for word in ("red", "blue", "old")]
    one = folder_of(tmp_path / "one", 1, ["NEGATIVE", "POSITIVE"], texts)
    two = folder_of(tmp_path / "two", 2, ["NEGATIVE", "POSITIVE"], [text[::-1] for text in texts])
    names = ["positive" if k % 3 else "negative" for k in range(len(texts))]
    body = "".join(f"{text}\t{name}\t{name[:1]}\n" for text, name in zip(texts, names, strict=True))
    (tmp_path / "t.tsv").write_text(f"sentence\tlabel\tfirst\n{body}")
    found, _ = compared(command, tmp_path, str(one), str(two), "--data", str(tmp_path / "t.tsv"))
    (told,) = found["comparisons"]
    wanted = []
    for folder in (one, two):
        module = BertForSequenceClassification.from_pretrained(folder).eval()
        tokens = of_folder(folder)
        assert tokens is not None
        said = []
        for text in texts:  # one by one: nothing is padded
            ((ids, _),) = tokens.tokenizer.encoded([text], longest=16)
            with torch.no_grad():
                said.append(int(module(torch.tensor([ids])).logits.argmax()))
        wanted.append(said)
    truth = [int(name == "positive") for name in names]
    for who, said in zip(("before", "after"), wanted, strict=True):
        right = 100 * float(np.mean([a == b for a, b in zip(said, truth, strict=True)]))
        assert told["accuracy"][who]["value"] == pytest.approx(right)
    assert told["counts"]["changed"] == sum(a != b for a, b in zip(*wanted, strict=True))
    assert told["layers"]["words"] == ["Can't be told: the two read texts in other tokens."]
    (one / "tokenizer.json").unlink()
    done = command("compare", str(one), str(two), "--data", str(tmp_path / "t.tsv"))
    assert done.returncode == 2
    assert "one: how texts become its inputs isn't known" in done.stderr


def test_texts_become_what_an_artefact_takes() -> None:
    tokenizer = trained(SOME, 300)
    whole = Reading(tokenizer, 8)
    made = whole.apply(SOME)
    each = [ids for ids, _ in tokenizer.encoded(SOME, longest=8)]
    assert made["input_ids"].shape == (6, 8)
    for row, ids in enumerate(each):
        assert made["input_ids"][row, : len(ids)].tolist() == ids
        assert made["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (8 - len(ids))
        assert set(made["input_ids"][row, len(ids) :].tolist()) <= {tokenizer.pad}
    pairs = Reading(tokenizer, 16, names=("input_ids", "attention_mask", "token_type_ids")).apply(
        ["a bird"], ["a fish"]
    )
    kinds = pairs["token_type_ids"][0].tolist()
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1}
    fixed = whole.fitted(
        Wanted((Input("attention_mask", (None, 5), "int64"), Input("input_ids", (None, 5), "int64")))
    )
    assert {n: x.shape for n, x in fixed.apply(SOME[:2]).items()} == {
        "input_ids": (2, 5), "attention_mask": (2, 5),
    }  # fmt: skip
    assert fixed.apply(SOME)["input_ids"][5, -1] == each[5][-1], "cut by the tokenizer, its end kept"
    assert len({whole.digest, fixed.digest, Reading(trained(SOME[:2], 300), 8).digest}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["text=review"], "has no column 'review'"),
        (["label=stars"], "has no column 'stars'"),
        (["texts=said"], "'texts=said'; columns are named by text=, second=, label= and id="),
        (["id=first"], "the id 'a' stands in 2 rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "t.csv").write_text("text,label,first\none,1,a\ntwo,0,a\n")
    with pytest.raises(UserError, match=re.escape(said)):
        material.read([str(tmp_path / "t.csv"), *words])
    (tmp_path / "u.csv").write_text("said,label\none,1\n")
    with pytest.raises(
        UserError, match="has no column 'text'; text=COLUMN names that of the texts, of said, label"
    ):
        material.read([str(tmp_path / "u.csv")])
    found = material.read([str(tmp_path / "u.csv"), "text=said"])
    assert (found.n, found.labels.tolist() if found.labels is not None else None) == (1, [1])


def test_labels_are_numbered_as_the_reference_numbers_its_classes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\none,bad\ntwo,good\nthree,bad\n")
    found = material.read([str(tmp_path / "t.csv")])
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]
    turned = material.named_as(found, ["GOOD", "MIXED", "BAD"])
    assert turned.labels is not None
    assert turned.labels.tolist() == [2, 0, 2]
    assert turned.classes == ("GOOD", "MIXED", "BAD")
    assert material.named_as(found, ["good", "other"]) is found


def test_columns_of_long_texts_take_no_array_as_wide(tmp_path: Path) -> None:
    """2,000 rows, one of which holds 100,000 characters, would be an array of 800 MB."""
    cells = ["x" * 100_000, *("ba"[k % 2] for k in range(1999))]
    path = tmp_path / "t.jsonl"
    rows = ({"text": "q", "note": cell, "number": k} for k, cell in enumerate(cells))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracemalloc.start()
    made = material.of_table(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 << 20
    codes, names = made.groups["note"]
    assert (names, codes.dtype) == (("a", "b", cells[0]), np.int64)
    assert [names[k] for k in codes] == cells
    assert list(made.groups) == ["note"]  # another number in each row


@pytest.mark.parametrize("digits", [20, 400])
@pytest.mark.parametrize("sign", ["", "-"])
def test_numbers_of_many_digits_are_one_line(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, digits: int, sign: str
) -> None:
    huge, path = int(sign + "9" * digits), tmp_path / "t.jsonl"

    def write(*rows: dict[str, Any]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    with pytest.raises(UserError, match=rf"t\.jsonl: label holds {sign}9{{{min(digits, 40 - len(sign))}}};"):
        material.of_table(write({"text": "q", "label": 1}, {"text": "q", "label": huge}))
    both = [{"a": 0.5, "b": 0.5, "label": k} for k in (0, huge)]
    with pytest.raises(UserError, match="its labels are not"):
        predictions.lines(write(*both), Given())
    given = write({"a": 0.5, "b": huge, "label": 0})
    if digits == 400:
        with pytest.raises(UserError, match="a, b hold what are no numbers"):
            predictions.lines(given, Given())
    else:
        assert predictions.lines(given, Given()).answers.values.tolist() == [[0.5, float(huge)]]
    assert not recwarn.list


def test_pictures_settings_do_nothing_to_texts(tmp_path: Path, command: Any) -> None:
    one = folder_of(tmp_path / "one", 1, ["a", "b"], SOME)
    (tmp_path / "t.csv").write_text("text,label\none,1\ntwo,0\n")
    done = command("compare", str(one), str(one), "--data", str(tmp_path / "t.csv"), "--size", "32")
    assert done.returncode == 2
    assert "t.csv: is fed as it is, since it holds no pictures" in done.stderr
