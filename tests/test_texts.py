"""Texts: tables and published layouts as they are read, tokens, the task, and an encoder that no padding changes."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.data import tables, texts
from compressbench.data.examples import Examples
from compressbench.data.load import load
from compressbench.data.tables import read_table
from compressbench.errors import UserError
from compressbench.models.encoder import TextEncoder
from compressbench.tasks.text import tokens
from compressbench.tasks.text.classification import TextClassification, text_classification
from compressbench.tasks.text.packing import packed, unpacked
from compressbench.tasks.text.tokens import Tokenizer, of_folder, trained

pytest.importorskip("tokenizers")
SOME = ["a red fish", "the blue bird sings", "Ein großer Vogel", "鳥 is a bird", "", "fish fish fish bird"]
TASK = {
    "_target_": "compressbench.tasks.text.classification.text_classification",
    "length": 12,
    "vocabulary": 300,
}


def written(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_tables_of_three_forms_are_read_alike(tmp_path: Path) -> None:
    rows = [('a "quoted" one', "x"), ("two, with a comma", "y"), ("", "x")]
    tsv = written(tmp_path / "t.tsv", "text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    csv = written(
        tmp_path / "t.csv", 'text,label\r\n"a ""quoted"" one",x\r\n"two, with a comma",y\r\n"",x\r\n'
    )
    lines = written(
        tmp_path / "t.jsonl", "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows)
    )
    (tmp_path / "z.tsv.gz").write_bytes(gzip.compress(Path(tsv).read_bytes()))
    wanted = {"text": [a for a, _ in rows], "label": [b for _, b in rows]}
    assert [read_table(p) for p in (tsv, csv, lines, tmp_path / "z.tsv.gz")] == [wanted] * 4
    bom = written(tmp_path / "b.csv", "\ufefftext,label\nq,1\n")
    assert read_table(bom) == {"text": ["q"], "label": ["1"]}
    assert read_table(written(tmp_path / "n.jsonl", '{"text": "q", "label": 1}\n'))["label"] == ["1"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.tsv", "text\tlabel\nq\n", "row 2 has 1 cells, the header 2"),
        ("a.tsv", "", "empty"),
        ("a.tsv", "text\ttext\nq\tr\n", "two columns 'text'"),
        ("a.csv", 'text,label\n"q,1\n', "is no CSV"),
        ("a.jsonl", "[1]\n", "line 1 is no object"),
        ("a.jsonl", '{"text": "q"}\n{"label": 1}\n', "line 2 and those before it differ"),
        ("a.jsonl", '{"text": null}\n', "text is null, not a text"),
        ("a.jsonl", "{\n", "line 1 is no JSON"),
        ("a.jsonl", '\n{"text": "q"}\n \n{"text": 1}\n{"text": []}\n', "line 5: text is"),
        ("a.jsonl", '{}\n{"text": "q"}\n', "line 1 is no object such"),
        (
            "a.jsonl",
            '{"text": "q"}\n{"text": "a \\ud800"}\n',
            r"a\.jsonl: line 2: 'text' holds half of a character",
        ),
        ("a.jsonl", '{"\\udfff": "q"}\n', r"line 1: '\\udfff' holds half of a character"),
        ("a.txt", "q\n", "no table by its name"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(UserError, match=said):
        read_table(path)


def test_a_message_holds_the_beginnings_of_names(tmp_path: Path) -> None:
    """Of a file without a header the names are the first row's texts."""
    long = "x" * 45
    path = written(tmp_path / "t.csv", f'{long},"two\nlines","{long} a"\nq,r,s\n')
    with pytest.raises(UserError) as refused:
        texts.text_file(path, test_fraction=0.5)
    assert str(refused.value).endswith(f"it has {long[:40]}, two lines, {long[:40]}")
    body = "".join(f"q\t{long}{k % 2}\n" for k in range(8))
    path = written(tmp_path / "t.tsv", f"text\tlabel\n{body}")
    with pytest.raises(UserError) as refused:
        texts.text_file(path, written(tmp_path / "u.tsv", "text\tlabel\nq\tz\n"))
    assert str(refused.value).endswith(f"label 'z' is none of the classes: {long[:40]}, {long[:40]}")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_table(tmp_path / "a.tsv")
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\nq\t1\n")[:-4])
    with pytest.raises(UserError, match="truncated or damaged"):
        read_table(tmp_path / "a.tsv.gz")


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.tsv.xz"])
def test_a_table_takes_the_memory_of_its_text(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "text\tlabel\n" + "q\t1\n" * 600_000  # of more than two chunks
    pack: Any = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(body.encode()))
    tracemalloc.start()
    assert tables.text_of(tmp_path / name) == body
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 << 20
    monkeypatch.setattr(tables, "LARGEST", len(body))
    assert tables.text_of(tmp_path / name) == body
    monkeypatch.setattr(tables, "LARGEST", len(body) - 1)
    with pytest.raises(UserError, match="is larger than 2 GiB"):
        tables.text_of(tmp_path / name)


def test_texts_are_packed_and_unpacked() -> None:
    found = packed(SOME)
    assert unpacked(found) == SOME
    assert unpacked(found[[3, 4, 0]]) == [SOME[3], "", SOME[0]]


def test_the_definitions_that_come_with_the_package() -> None:
    raw = texts.glosses()
    assert (len(raw.train), len(raw.test)) == (10_000, 2_000)
    assert np.bincount(raw.train.labels).tolist() == [1000] * 10
    assert unpacked(raw.train["text"][:1]) == ["the tissue of a plant"]
    assert raw.classes[int(raw.train.labels[0])] == "plant"
    kinds, counts = np.unique(raw.attributes["test"]["kind"], return_counts=True)
    assert "ill health" in kinds
    assert counts.min() >= 20


def test_published_layouts(tmp_path: Path) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    written(folder / "train.tsv", "sentence\tlabel\nbad \t0\ngood \t1\n")
    written(folder / "dev.tsv", "sentence\tlabel\nfine\t1\n")
    raw = texts.sst2(str(tmp_path))
    assert (raw.train.labels.tolist(), unpacked(raw.test["text"])) == ([0, 1], ["fine"])
    folder = tmp_path / "MNLI"
    folder.mkdir()
    head = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
    written(folder / "train.tsv", head + "0\tslate\tp\th\tx\tneutral\n1\tslate\tp\th\tx\t-\n")
    written(folder / "dev_mismatched.tsv", head + "0\tbook\tq\ti\tx\tcontradiction\n")
    raw = texts.mnli(str(tmp_path), "mismatched")
    assert (raw.train.labels.tolist(), raw.test.labels.tolist()) == ([1], [2])
    assert unpacked(raw.test["second"]) == ["i"]
    folder = tmp_path / "trec"
    folder.mkdir()
    written(folder / "train_5500.label", "DESC:manner How so ?\nLOC:city Where ?\n")
    written(folder / "TREC_10.label", "NUM:date When ?\n")
    raw = texts.trec(str(tmp_path))
    assert (unpacked(raw.train["text"]), raw.test.labels.tolist()) == (["How so ?", "Where ?"], [5])
    assert raw.attributes["train"]["fine"].tolist() == ["DESC:manner", "LOC:city"]
    folder = tmp_path / "ag_news_csv"
    folder.mkdir()
    written(folder / "train.csv", '"3","Wall St.","Short ""sellers"""\n')
    written(folder / "test.csv", '"4","T","D"\n')
    raw = texts.agnews(str(tmp_path))
    assert (unpacked(raw.train["text"]), raw.train.labels.tolist()) == (
        ['Wall St. Short "sellers"'],
        [2],
    )
    with pytest.raises(UserError, match=r"dataset sst2 not found: no train\.tsv in "):
        texts.sst2(str(tmp_path / "nowhere"))
    written(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel\nfine\t2\n")
    with pytest.raises(UserError, match="label '2' is none of the classes: 0, 1"):
        texts.sst2(str(tmp_path))


def test_published_layouts_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "trec").mkdir()
    (tmp_path / "agnews").mkdir()
    (tmp_path / "trec/train_5500.label.gz").write_bytes(
        gzip.compress(b"DESC:manner How \xe9 ?\nLOC:city W ?\n")
    )
    (tmp_path / "trec/TREC_10.label.xz").write_bytes(lzma.compress(b"NUM:date When ?\n"))
    raw = texts.trec(str(tmp_path))
    assert (unpacked(raw.train["text"]), unpacked(raw.test["text"])) == (["How é ?", "W ?"], ["When ?"])
    (tmp_path / "agnews/train.csv.gz").write_bytes(gzip.compress(b'"3","Wall\r\nSt.","S"\r\n'))
    (tmp_path / "agnews/test.csv.xz").write_bytes(lzma.compress(b'"4","T","D"\n'))
    raw = texts.agnews(str(tmp_path))
    assert (unpacked(raw.train["text"]), unpacked(raw.test["text"])) == (["Wall\nSt. S"], ["T D"])


def test_a_users_own_table(tmp_path: Path) -> None:
    body = "".join(f"one {i},other {i},{i % 3 + 8},{'ab'[i % 2]}\n" for i in range(30))
    path = written(tmp_path / "t.csv", f"said,reply,stars,who\n{body}")
    raw = texts.text_file(
        path, text="said", second="reply", label="stars", attributes=["who"], test_fraction=0.2
    )
    assert raw.classes == ("8", "9", "10")  # by size, not as texts
    assert (len(raw.train), len(raw.test)) == (24, 6)
    assert np.bincount(raw.test.labels).tolist() == [2, 2, 2]
    rows = raw.test.rows
    assert unpacked(raw.test["second"]) == [f"other {i}" for i in rows]
    assert raw.attributes["test"]["who"].tolist() == ["ab"[i % 2] for i in rows]
    test = written(tmp_path / "u.csv", "said,reply,stars,who\nx,y,7,a\n")
    for settings, said in (
        ({"train": None}, "train names no file"),
        ({"train": path}, "either test"),
        ({"train": path, "test_fraction": 2, "text": "said", "label": "stars"}, "must be between 0 and 1"),
        (
            {"train": path, "test": test, "text": "said", "label": "stars"},
            "label '7' is none of the classes: 8, 9, 10",
        ),
        ({"train": path, "test_fraction": 0.5, "label": "stars"}, "has no column 'text'"),
        ({"train": path, "test_fraction": 0.5, "text": "said", "label": "said"}, "one example"),
    ):
        with pytest.raises(UserError, match=said):
            texts.text_file(**settings)


def test_a_row_without_a_label_is_refused(tmp_path: Path) -> None:
    whole, lacking = ("text\tlabel\n" + "q\ta\nq\tb\n" * 4 + end for end in ("", "q\t\nq\ta\n"))
    whole, lacking = written(tmp_path / "whole.tsv", whole), written(tmp_path / "lacking.tsv", lacking)
    for settings in ({"train": lacking, "test_fraction": 0.3}, {"train": whole, "test": lacking}):
        with pytest.raises(UserError, match=r"lacking\.tsv: row 9 has no label in 'label'"):
            texts.text_file(**settings)


@pytest.mark.parametrize("cell", ["{}", "the same" * 30])
def test_attributes_that_are_texts_make_no_groups(tmp_path: Path, cell: str) -> None:
    body = "".join(f"q\t{'ab'[i % 2]}\t{cell.format(i)}\n" for i in range(1100))
    path = written(tmp_path / "t.tsv", f"text\tlabel\twho\n{body}")
    said = "1,100 different texts of up to 4 " if cell == "{}" else "1 different texts of up to 240 "
    with pytest.raises(UserError, match=rf"t\.tsv: column 'who' \(attributes\) makes no groups: {said}"):
        texts.text_file(path, test_fraction=0.5, attributes=["who"])


def test_classes_stand_in_one_order_whatever_the_labels_order() -> None:
    """Nothing is above or below not-a-number, so that sorting by it keeps an order that hashes made."""
    for order in itertools.permutations(["nan", "inf", "10", "9", "a"]):
        assert sorted(order, key=texts._in_order) == ["9", "10", "a", "inf", "nan"]


def test_a_vocabulary_is_the_same_in_every_process() -> None:
    code = (
        "from compressbench.data import texts; from compressbench.tasks.text.packing import unpacked; "
        "from compressbench.tasks.text.tokens import trained; "
        "print(trained(unpacked(texts.glosses().train['text'][:2000]), 1000).digest)"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


def test_no_text_holds_what_a_vocabulary_does_not_know() -> None:
    own = trained(SOME[:2], 300)
    unknown = own._made.token_to_id("[UNK]")
    for text, (ids, kinds) in zip(SOME, own.encoded(SOME), strict=True):
        assert unknown not in ids
        assert own._made.decode(ids).strip() == text.lower()
        assert set(kinds) == {0}
    ((ids, kinds),) = own.encoded(["a red fish"], ["the bird"])
    assert kinds[0] == 0
    assert kinds[-1] == 1
    assert kinds == sorted(kinds)
    ((short, _),) = own.encoded(["a red fish " * 20], longest=8)
    assert len(short) == 8
    assert own._made.id_to_token(short[-1]) == "[SEP]"
    with pytest.raises(UserError, match="vocabulary is 200, must be a number above 261"):
        trained(SOME, 200)


def test_a_models_folder_brings_its_own(tmp_path: Path) -> None:
    own = trained(SOME, 300)
    written(tmp_path / "tokenizer.json", own.json)
    assert of_folder(tmp_path).pad == own.pad
    assert list(of_folder(tmp_path).encoded(SOME)) == list(own.encoded(SOME))
    written(tmp_path / "tokenizer.json", "{}")
    with pytest.raises(UserError, match="is no tokenizer"):
        of_folder(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        of_folder(empty)
    with pytest.raises(UserError, match="there is no folder"):
        of_folder(tmp_path / "else")


def changed(folder: Path, **parts: Any) -> Path:
    """A folder with a trained tokenizer of which parts were changed."""
    written(folder / "tokenizer.json", json.dumps({**json.loads(trained(SOME, 300).json), **parts}))
    return folder


def test_what_panics_in_rust_or_fails_there_is_one_line(tmp_path: Path) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(UserError, match="is no tokenizer") as caught:
        of_folder(changed(tmp_path, normalizer=normalizer))
    assert "\n" not in str(caught.value)
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    made = of_folder(changed(tmp_path, model=model, added_tokens=[], post_processor=None))
    with pytest.raises(UserError, match="can't cut these texts"):
        list(made.encoded(["b"]))
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), tokens._one_line("x", "y"):
            raise stop


def test_ids_stay_below_the_size_or_are_refused(tmp_path: Path) -> None:
    own = json.loads(trained(SOME, 300).json)
    vocab = own["model"]["vocab"]
    assert trained(SOME, 300).size == len(vocab)  # dense

    def model(**more: int) -> dict[str, Any]:
        return {**own["model"], "vocab": {**vocab, **more}}

    assert of_folder(changed(tmp_path, model=model(far=500))).size == 501
    with pytest.raises(UserError, match="16,777,216 ids are read"):
        of_folder(changed(tmp_path, model=model(far=2**24)))
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 900,
               "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    with pytest.raises(UserError, match="id 900, and its tokens end at"):
        of_folder(changed(tmp_path, padding=padding))
    processor = json.loads(json.dumps(own["post_processor"]))
    processor["special_tokens"]["[CLS]"]["ids"] = [7000]
    with pytest.raises(UserError, match="id 7,000, and its tokens end at"):
        of_folder(changed(tmp_path, post_processor=processor))


@pytest.mark.parametrize("pairs", [False, True])
def test_padding_and_company_change_no_answer(pairs: bool) -> None:
    """Alone, padded further, and in any batch and order a text is answered alike; an empty one is answered."""
    seconds = SOME[::-1] if pairs else None
    some = texts.examples(SOME, np.zeros(len(SOME), int), seconds)
    task = text_classification(some, ("a", "b", "c"), length=24, vocabulary=300)
    ready = task.prepared(some).to("cpu")
    torch.manual_seed(0)
    net = TextEncoder(300, 3, 48, segments=2 if pairs else 1, dim=16, depth=2, heads=2, mlp=32).eval()
    with torch.no_grad():
        whole = net(*task.encode(ready))
        assert torch.isfinite(whole).all()
        assert len(whole.round(decimals=4).unique(dim=0)) > 3  # they are told apart
        alone = torch.cat([net(*task.encode(ready.take([i]))) for i in range(len(SOME))])
        turned = net(*task.encode(ready.take([5, 3, 1, 0, 2, 4])))
        wide = type(task)(task.classes, task.tokenizer, 48, pairs)
        further = net(*wide.encode(wide.prepared(some).to("cpu")))
    assert torch.allclose(alone, whole, atol=1e-5)
    assert torch.allclose(turned, whole[[5, 3, 1, 0, 2, 4]], atol=1e-5)
    assert torch.allclose(further, whole, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
def test_drawn_pairs_have_the_kinds_that_the_tokenizer_gives(kind: int) -> None:
    """RoBERTa gives both texts the kind 0 and its table of kinds has one row."""
    from tokenizers import Tokenizer as Made
    from tokenizers import processors

    made = Made.from_str(trained(SOME, 300).json)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{kind} [SEP]:{kind}",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    task = TextClassification(("a", "b"), Tokenizer(made.to_str()), 12, pairs=True)
    ids, mask, kinds = task.drawn(8, torch.Generator().manual_seed(0))
    assert kinds.shape == ids.shape == mask.shape
    assert int(kinds.max()) == kind


def test_the_tokenizer_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    rows = "".join(f"the {'red' if i % 2 else 'blue'} bird number {i}\t{i % 2}\n" for i in range(60))
    path = written(tmp_path / "t.tsv", f"text\tlabel\n{rows}")
    config = {
        "name": "own", "read": {"_target_": "compressbench.data.texts.text_file", "train": path, "test_fraction": 0.2},
        "validation": 6, "task": TASK,
    }  # fmt: skip
    one, same = load(config), load(config)
    other = load({**config, "task": {**TASK, "vocabulary": 280}})
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert isinstance(one.split("train"), Examples)
    assert one.task.facts()["@vocabulary"] == one.task.tokenizer.size  # type: ignore[attr-defined]
    ids, mask = one.task.encode(one.split("test").to("cpu"))
    assert ids.shape == mask.shape == (12, int(mask.sum(1).max()))
    for bad, said in (({"length": 2}, "length is 2"), ({"vocabulary": 5}, "vocabulary is 5")):
        with pytest.raises(UserError, match=said):
            load({**config, "task": {**TASK, **bad}})
