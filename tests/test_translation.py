"""Translation: pairs as they are read, tokens and labels, what is right, BLEU as sacrebleu has it, and a run of all."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressbench.checking.tasks import check_task
from compressbench.checking.traces import Unfit
from compressbench.cli.run import composed
from compressbench.data import parallel
from compressbench.data.coarse import merged
from compressbench.data.dataset import Raw, Split
from compressbench.data.examples import Examples
from compressbench.data.load import load
from compressbench.deploying.handing_over import export, write_examples
from compressbench.errors import UserError
from compressbench.models.counting import count
from compressbench.models.encoder_decoder import EncoderDecoder
from compressbench.outputs import Outputs
from compressbench.probes.translation import Translated
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import prepare
from compressbench.tasks.text.bleu import bleu_of, chrf_of, interval, repeated
from compressbench.tasks.text.packing import packed, unpacked
from compressbench.tasks.text.translation import Translation, translation
from compressbench.training.objectives import Batch, smoothed
from compressbench.views import View

pytest.importorskip("tokenizers")
sacrebleu = pytest.importorskip("sacrebleu")
PAIRS = [
    ("A dog sees the house.", "Ein Hund sieht das Haus."),
    ("", ""),
    (
        "The old woman loves a small child very much, again and again.",
        "Die alte Frau liebt ein kleines Kind.",
    ),
    ("Dogs!", "Hunde, die im Freien über die schöne grüne Wiese laufen!"),
]


def written(path: Path, lines: list[str], packing: bool = False) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if packing else data)
    return path


def published(folder: Path, short: bool = False) -> Path:
    for part, size in (("train", 6), ("val", 3), ("test_2016_flickr", 2), ("test_2017_mscoco", 1)):
        written(folder / f"{part}.en.gz", [f"{part} source {k}" for k in range(size)], packing=True)
        written(folder / f"{part}.de", [f"{part} Ziel {k}" for k in range(size - (short and part == "val"))])
    return folder


@pytest.mark.parametrize("place", ["multi30k", "text/multi30k", ""])
def test_multi30k_is_read_with_its_validation(tmp_path: Path, place: str) -> None:
    published(tmp_path / place)
    config = {
        "name": "multi30k",
        "read": {"_target_": "compressbench.data.parallel.multi30k", "data_dir": str(tmp_path)},
        "task": {"_target_": "compressbench.tasks.text.translation.translation", "vocabulary": 300},
    }
    made = load(config)
    assert {part: len(split) for part, split in made.splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 2,
    }
    assert unpacked(made.split("validation")["text"])[0] == "val source 0"
    assert unpacked(made.split("test")["target"])[1] == "test_2016_flickr Ziel 1"
    held = load({**config, "validation": 2})
    assert {part: len(split) for part, split in held.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    assert all(text.startswith("train") for text in unpacked(held.split("validation")["text"]))
    other = parallel.multi30k(str(tmp_path), test="2017_mscoco")
    assert unpacked(other.test["text"]) == ["test_2017_mscoco source 0"]
    turned = parallel.multi30k(str(tmp_path), source="de", target="en")
    assert unpacked(turned.train["target"])[0] == "train source 0"


def test_a_published_validation_split_is_merged_as_the_others_are() -> None:
    """Three classes that become two: labels and fine names of all three splits."""

    def split(labels: list[int]) -> Examples:
        return Split.of(np.zeros((len(labels), 1, 4, 4), np.uint8), np.array(labels))

    raw = Raw(split([0, 1, 2]), split([2, 1]), ("a", "b", "c"), validation=split([1, 2, 2]))
    found = merged(raw, {"first": ("a",), "rest": ("b", "c")}, "three")
    assert found.validation is not None
    assert found.validation.labels.tolist() == [1, 1, 1]
    assert found.attributes["validation"]["fine"].tolist() == ["b", "c", "c"]
    assert found.test.labels.tolist() == [1, 1]
    assert merged(replace(raw, validation=None), {"all": ("a", "b", "c")}, "three").validation is None


def test_lines_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    published(tmp_path / "one", short=True)
    with pytest.raises(UserError, match=r"val\.en\.gz has 3 lines, .*val\.de 2; one each is wanted"):
        parallel.multi30k(str(tmp_path / "one"))
    with pytest.raises(UserError, match=r"dataset multi30k not found: no train\.en in "):
        parallel.multi30k(str(tmp_path / "nowhere"))
    published(tmp_path / "two")
    (tmp_path / "two" / "val.de").unlink()
    with pytest.raises(UserError, match=r"val\.de is missing"):
        parallel.multi30k(str(tmp_path / "two"))
    with pytest.raises(UserError, match="test is '2019', must be one of 2016_flickr"):
        parallel.multi30k(str(tmp_path / "one"), test="2019")


def test_a_users_own_pairs(tmp_path: Path) -> None:
    sources, targets = [f"one {k}" for k in range(10)], [f"eins {k}" for k in range(10)]
    one, other = written(tmp_path / "a.txt", sources), written(tmp_path / "b.txt.gz", targets, packing=True)
    both = written(
        tmp_path / "t.tsv", ["en\tde", *(f"{a}\t{b}" for a, b in zip(sources, targets, strict=True))]
    )
    raw = parallel.parallel_file(str(one), train_target=str(other), test_fraction=0.2)
    table = parallel.parallel_file(str(both), text="en", target="de", test_fraction=0.2)
    assert (len(raw.train), len(raw.test)) == (8, 2)
    for found in (raw, table):
        assert unpacked(found.test["target"]) == [targets[k] for k in found.test.rows]
        assert sorted([*found.train.rows, *found.test.rows]) == list(range(10))
    whole = parallel.parallel_file(str(one), str(both), str(other), text="en", target="de")
    assert (len(whole.train), len(whole.test)) == (10, 10)
    for settings, said in (
        ({}, "train names no file"),
        ({"train": str(one)}, "either test"),
        ({"train": str(one), "test_fraction": 0.5}, "is no table by its name .* wanted as train_target"),
        (
            {"train": str(one), "train_target": str(tmp_path / "t.tsv"), "test_fraction": 0.5},
            "has 10 lines, .* 11",
        ),
        ({"train": str(both), "test_fraction": 0.5}, "has no column 'text'"),
        ({"train": str(one), "train_target": str(other), "test_fraction": 1}, "must be between 0 and 1"),
        ({"train": str(tmp_path / "no.tsv"), "test_fraction": 0.5}, "can't read"),
        (
            {"train": str(one), "train_target": str(other), "test_fraction": 0.5, "test_target": "x"},
            "without test",
        ),
    ):
        with pytest.raises(UserError, match=said):
            parallel.parallel_file(**settings)


def test_lines_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("eins\u2028zwei\r\n\ndrei\x0b".encode())
    assert parallel.lines_of(path) == ["eins\u2028zwei", "", "drei\x0b"]


def test_phrases_are_german() -> None:
    """Gender, case, the adjective's ending and the order of words, by hand; no pair is in both splits."""
    raw = parallel.phrases(4000, 500)
    known: dict[str, str] = {}
    for part in (raw.train, raw.test):
        known |= dict(zip(unpacked(part["text"]), unpacked(part["target"]), strict=True))
    assert len(known) == 4500
    wanted = {
        "noun": ("The dog sees ", "Der Hund sieht "),
        "neuter": (" a red house.", " ein rotes Haus."),
        "accusative": (" an old man.", " einen alten Mann."),
        "definite": (" the old man.", " den alten Mann."),
        "feminine": (" the small woman.", " die kleine Frau."),
        "time": ("In the morning a beautiful bird loves ", "Am Morgen liebt ein schöner Vogel "),
    }
    for english, german in wanted.values():
        found = [b for a, b in known.items() if english in a]
        assert found
        assert all(german in b for b in found)
    with pytest.raises(UserError, match="together 2 to 392,000"):
        parallel.phrases(390_000, 10_000)


@pytest.fixture(scope="module")
def small() -> tuple[Translation, Any]:
    some = parallel.pairs([a for a, _ in PAIRS], [b for _, b in PAIRS])
    task = translation(some, (), length=24, vocabulary=290, beyond=5)
    return task, task.prepared(some)


def test_tokens_and_labels(small: Any) -> None:
    task, ready = small
    there = ready.to("cpu")
    _, mask, decoder = task.encode(there)
    labels = torch.as_tensor(ready.labels)
    assert decoder.shape[1] + 1 == np.diff(ready["target_ids"].starts).max()
    assert decoder[:, 0].tolist() == [task.begin] * 4
    for row, (_, target) in enumerate(PAIRS):
        wanted = labels[row][labels[row] >= 0].tolist()
        assert wanted[-1] == task.end
        assert decoder[row, : len(wanted)].tolist() == [task.begin, *wanted[:-1]]
        text = task.spelled(labels[row : row + 1])[0]
        assert text == target if row < 2 else target.startswith(text)
    assert ready["cut"].tolist() == [0, 0, 1, 1]  # one's source, the other's target is longer than 24 tokens
    assert mask.sum(1).tolist() == np.diff(ready["ids"].starts).tolist()
    assert int(mask[1].sum()) == 2  # an empty text: its begin and its end
    assert task.lengths(there).tolist() == [int(mask[k].sum() + (labels[k] >= 0).sum() + 1) for k in range(4)]
    assert task.tokenizer.names[task.end] == "[SEP]"


def test_loss_and_pieces_are_over_tokens(small: Any) -> None:
    """Against torch's own cross-entropy, token by token; what is no label counts nowhere."""
    task, ready = small
    labels = torch.as_tensor(ready.labels)
    logits = torch.randn(4, 23, task.tokenizer.size, generator=torch.Generator().manual_seed(0))
    each = [
        F.cross_entropy(logits[i, k], labels[i, k]).item()
        for i in range(4)
        for k in range(23)
        if labels[i, k] >= 0
    ]
    assert task.loss(Outputs(logits), labels).item() == pytest.approx(np.mean(each), rel=1e-5)
    pieces = task.log_probs(Outputs(logits), labels)
    own = -pieces.log_probs.gather(1, pieces.labels[:, None]).squeeze(1)
    assert own.tolist() == pytest.approx(each, rel=1e-4)
    assert pieces.owners.tolist() == [i for i in range(4) for k in range(23) if labels[i, k] >= 0]
    short = task.loss(Outputs(logits[:, :7]), labels).item()  # a batch that is padded less
    firsts = [
        F.cross_entropy(logits[i, k], labels[i, k]).item()
        for i in range(4)
        for k in range(7)
        if labels[i, k] >= 0
    ]
    assert short == pytest.approx(np.mean(firsts), rel=1e-5)
    with pytest.raises(UserError, match=r"logits of shape \(4, 5\); a translation needs"):
        task.loss(Outputs(torch.zeros(4, 5)), labels)


def test_what_is_right(small: Any) -> None:
    task, _ = small
    end = task.end
    labels = torch.tensor([[7, 8, end, -1], [7, end, -1, -1], [9, 9, 9, end]])
    for said, wanted in (
        ([[7, 8, end], [7, end, -1], [9, 9, 9]], [True, True, False]),  # the last one has no end
        ([[7, 8, end, 4, 4], [7, 8, end, -1, -1], [9, 9, 9, 9, end]], [True, False, False]),
        ([[-1, -1, -1], [-1, -1, -1], [-1, -1, -1]], [False, False, False]),
    ):
        assert task.right(torch.tensor(said), labels).tolist() == wanted


def test_smoothing_over_tokens(small: Any) -> None:
    """Torch's own, over the tokens that have a label."""
    task, ready = small
    labels = torch.as_tensor(ready.labels)
    logits = torch.randn(4, 9, task.tokenizer.size, generator=torch.Generator().manual_seed(0))

    class Here:
        dataset = None

        def feed(self, split: str) -> Any:
            return ready.to("cpu")

    here = Here()
    here.task = task  # type: ignore[attr-defined]
    found = smoothed(here, 0.2)(Batch(Outputs(logits), (), labels, torch.arange(4)))  # type: ignore[arg-type]
    there = labels[:, :9] >= 0
    wanted = F.cross_entropy(logits[there], labels[:, :9][there], label_smoothing=0.2)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_company_and_padding_change_no_likelihood(small: Any) -> None:
    task, ready = small
    torch.manual_seed(0)
    net = EncoderDecoder(task.tokenizer.size, 24, dim=16, depth=2, heads=2, mlp=24).eval()
    there = ready.to("cpu")

    def said(rows: list[int]) -> dict[int, list[float]]:
        some = there.take(rows)
        with torch.no_grad():
            found = task.log_probs(Outputs(net(*task.encode(some))), some.labels)
        own = found.log_probs.gather(1, found.labels[:, None]).squeeze(1)
        return {row: own[found.owners == k].tolist() for k, row in enumerate(rows)}

    whole = said([3, 1, 0, 2])
    for row in range(4):
        assert said([row])[row] == pytest.approx(whole[row], abs=1e-5)


SAID = [
    "Ein Hund läuft über die Wiese.",
    "Zwei Frauen sitzen auf einer Bank.",
    "Ein Mann.",
    "Der der Hund Hund.",
]
WANTED = [
    "Ein Hund rennt über eine Wiese.",
    "Zwei Frauen sitzen auf einer Bank.",
    "Ein Mann malt ein Haus.",
    "Der Hund.",
]


def test_bleu_is_sacrebleus_own() -> None:
    """Its command line's functions, and BLEU by its formula on counts made by hand."""
    own = sacrebleu.corpus_bleu(SAID, [WANTED])
    found = bleu_of(SAID, WANTED)
    assert found.score == own.score
    assert f"version:{sacrebleu.__version__}" in found.signature
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert chrf_of(SAID, WANTED).score == sacrebleu.corpus_chrf(SAID, [WANTED]).score
    assert bleu_of(WANTED, WANTED).score == pytest.approx(100)
    assert bleu_of(["Zwei Frauen sitzen auf einer Bank."], WANTED[1:2]).length_ratio == 1

    def grams(text: str, n: int) -> list[tuple[str, ...]]:
        words = text.replace(".", " .").split()
        return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]

    shares = []
    for n in range(1, 5):
        right = total = 0
        for a, b in zip(SAID, WANTED, strict=True):
            one, other = grams(a, n), grams(b, n)
            total += len(one)
            right += sum(min(one.count(g), other.count(g)) for g in set(one))
        shares.append(right / total)
    sizes = [sum(len(grams(t, 1)) for t in texts) for texts in (SAID, WANTED)]
    brief = min(1.0, np.exp(1 - sizes[1] / sizes[0]))
    assert found.score == pytest.approx(100 * brief * np.exp(np.mean(np.log(shares))), rel=1e-9)
    assert found.length_ratio == pytest.approx(sizes[0] / sizes[1])


def test_the_interval_is_a_bootstrap_of_corpora() -> None:
    """Against sacrebleu itself on the sentences drawn, one corpus a draw."""
    draws = np.random.RandomState(5)
    scores = []
    for _ in range(120):
        rows = draws.randint(0, 4, 4)
        scores.append(sacrebleu.corpus_bleu([SAID[k] for k in rows], [[WANTED[k] for k in rows]]).score)
    wanted = np.percentile(scores, (2.5, 97.5))
    assert interval(SAID, WANTED, 120, 5) == pytest.approx(tuple(wanted), abs=1e-9)
    assert interval(SAID, WANTED, 120, 6) != pytest.approx(tuple(wanted), abs=1e-9)


def test_tokens_said_twice() -> None:
    assert repeated(torch.tensor([[4, 4, 4, 2], [5, 6, 2, -1], [-1, -1, -1, -1]])) == (2, 7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"draws": 10}, "draws is 10"),
        ({"length_penalty": "x"}, "length_penalty is 'x'"),
    ],
)
def test_settings_of_the_probe(settings: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Translated(**settings)


def dense(words: list[str]) -> Any:
    """The trained net of a run."""
    ready = prepare(composed(words))
    return Executor(ready.plan, ready.store, ready.setting, Watcher()).state("dense")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["dataset=phrases", "model=resnet8"], "resnet8 asks for @shape, which phrases doesn't tell"),
        (
            ["dataset=digits", "model=translator", "evaluation=none"],
            "translator asks for @length, @vocabulary, which digits doesn't",
        ),
        (
            ["dataset=phrases", "model=encoder", "model.build.segments=1"],
            r"model encoder gives \(400,\) outputs",
        ),
        (["dataset=phrases", "model=translator", "dataset.task.length=2"], "length is 2"),
        (["dataset=phrases", "model=translator", "dataset.task.beyond=0"], "beyond is 0"),
        (["dataset=multi30k", "model=translator", "data_dir=/nowhere"], "multi30k not found"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, more: list[str], said: str) -> None:
    words = [
        "recipe=dense",
        "scale=smoke",
        "hardware=cpu1",
        "evaluation=translation",
        f"outputs={tmp_path}",
        *more,
    ]
    with pytest.raises(UserError, match=said) as found:
        dense(words)
    assert "\n" not in str(found.value)


def test_targets_can_be_made_anew(small: Any) -> None:
    """As a teacher's translations are: tokens, labels and lengths follow the column."""
    task, ready = small
    other = task.prepared(ready.with_column("target", packed([b for _, b in PAIRS[::-1]])))
    assert other.labels[3].tolist() == ready.labels[0].tolist()
    assert other["target_ids"][[3]].values.tolist() == ready["target_ids"][[0]].values.tolist()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recipe's four arms at one level each: its experiment, and records by series, probe, metric and group."""
    words = ["recipe=transformer_sparsity", "scale=smoke", "hardware=cpu1", "recipe.fractions=[0.8]",
             f"outputs={tmp_path_factory.mktemp('o')}", "dataset.task.length=22"]  # fmt: skip
    ready = prepare(composed(words))
    rows = Executor(ready.plan, ready.store, ready.setting, Watcher()).run()
    return ready, {(r.series, r.probe, r.metric, r.group): r for r in rows}


@pytest.fixture
def run(ran: Any) -> Any:
    """The records."""
    return ran[1]


STRANGER = """
import json, sys
sys.modules["compressbench"] = None  # nothing of ours
texts = [json.loads(line)["text"] for line in open("dense.test.jsonl", encoding="utf-8")]
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch_export"])
def test_a_stranger_translates_by_the_card(ran: Any, form: str, tmp_path: Path) -> None:
    """The card's script alone writes what the state writes: its BLEU is the recorded one."""
    pytest.importorskip("onnxruntime" if form == "onnx" else form.partition("_")[0])
    ready, run = ran
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    view, node, folder = (
        View(executor.state("dense"), executor.bench(), "dense"),
        ready.plan.node("dense"),
        tmp_path / "out",
    )
    export(ready, view, node, form, folder, tmp_path)
    write_examples(view, folder, node)
    card = (folder / f"dense.{form}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    (folder / "script.py").write_text(f"{STRANGER}{code}\nprint(json.dumps(said))")
    done = subprocess.run(
        [sys.executable, "-I", "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    wanted = unpacked(ready.dataset.split("test")["target"])
    assert bleu_of(said, wanted).score == pytest.approx(run["dense", "accuracy", "bleu", ""].value, abs=0.3)
    own = view.bench.task.spelled(view.answers)
    same = 100 * sum(a == b for a, b in zip(said, own, strict=True)) / len(own)
    assert same >= 99
    told = re.search(r"a bleu of ([\d.]+) \(the state ([\d.]+)\); of ([\d.]+) % of (\d+) sentences", card)
    assert told is not None
    assert float(told[1]) == pytest.approx(bleu_of(said, wanted).score, abs=0.006)
    assert float(told[3]) == pytest.approx(same, abs=0.006)
    assert int(told[4]) == len(own)


@pytest.mark.slow
def test_four_arms_translate(run: Any) -> None:
    """Dense translates; by magnitude more is left of that than at random; the others are sparse by themselves."""
    bleu = {
        s: run[s, "accuracy", "bleu", ""].value
        for s in ("dense", "magnitude", "random", "variational dropout", "L0")
    }
    density = {s: run[s, "accuracy", "bleu", ""].density for s in bleu}
    assert bleu["dense"] > 40
    assert bleu["magnitude"] > bleu["random"]
    # a fifth of all linear layers stays, and the embeddings of 400 tokens and of 2 x 22 places, width 48
    layers = 48 * (12 * 48 + 4 * 96 + 400)
    wanted = (layers / 5 + 48 * 444) / (layers + 48 * 444)
    for series in ("magnitude", "random"):
        assert density[series] == pytest.approx(wanted, abs=0.005)
    for series in ("variational dropout", "L0"):
        assert 48 * 444 / (layers + 48 * 444) < density[series] < 0.98, series


@pytest.mark.slow
def test_what_is_recorded_of_a_translation(run: Any) -> None:
    one = run["dense", "translation", "bleu", ""]
    assert one.value == run["dense", "accuracy", "bleu", ""].value
    assert (one.unit, one.n) == ("1", 200)
    assert f"version:{sacrebleu.__version__}" in one.note
    assert "were cut for the net" in one.note
    low, high = (run["dense", "translation", f"bleu_{end}", ""].value for end in ("low", "high"))
    assert low < one.value < high
    assert run["dense", "loyalty", "label_loyalty", ""].value == 100
    assert 0 < run["random", "loyalty", "label_loyalty", ""].value < 100
    assert run["dense", "loyalty", "label_loyalty", ""].n > 1000  # tokens


def test_macs_are_of_both_lengths(small: Any) -> None:
    """One forward under teacher forcing, by hand: S source tokens, T of the target, width d, m within a layer."""
    task, _ = small
    vocabulary, d, m = task.tokenizer.size, 16, 24
    net = EncoderDecoder(vocabulary, 24, dim=d, depth=2, decoder_depth=1, heads=2, mlp=m)
    s, t = 24, 23
    encoder = s * (4 * d * d + 2 * d * m) + 2 * s * s * d
    decoder = t * (4 * d * d + 2 * d * m) + 2 * t * t * d
    cross = 2 * t * d * d + 2 * s * d * d + 2 * s * t * d
    assert count(net, task.blank(1)).macs == 2 * encoder + decoder + cross + t * d * vocabulary


def test_what_was_cut_is_said(small: Any) -> None:
    task, ready = small
    assert task.remarks({"train": ready, "test": ready.take([0, 1])}) == (
        "longer than 24 tokens and cut there: 2 of 4 train pairs",
    )
    assert task.remarks({"test": ready.take([0, 1])}) == ()
    assert task.texts(ready.take([1, 3]))["target"] == ["", PAIRS[3][1]]


class Swapped:
    """A task that gives each sentence its neighbour's translation."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def said(self, module: Any, inputs: Any) -> Any:
        return self.task.said(module, inputs).roll(1, 0)


def test_a_task_that_decodes_is_checked() -> None:
    """The shipped one passes; one whose answers depend on their company doesn't."""
    made = load({
        "name": "phrases", "validation": 10,
        "read": {"_target_": "compressbench.data.parallel.phrases", "train": 60, "test": 10},
        "task": {"_target_": "compressbench.tasks.text.translation.translation", "length": 20, "vocabulary": 300},
    })  # fmt: skip
    check_task(made)
    with pytest.raises(Unfit, match="something else of example 1 than of it alone"):
        check_task(replace(made, task=Swapped(made.task)))


def test_other_tasks_are_told_why() -> None:
    """Of pictures there is no figure, and a reason."""
    probe = Translated()
    digits = load({"name": "digits", "read": {"_target_": "compressbench.data.idx.digits"}})
    assert probe.unfit(digits) == "its task is no translation; dataset=multi30k or parallel_file has one"

    class Here:
        dataset = digits

    (only,) = probe.measure(None, None, Here())  # type: ignore[arg-type]
    assert (only.name, only.value, only.note) == ("bleu", None, probe.unfit(digits))


def test_what_targets_are_like_stands_beside_what_was_learned_from_them() -> None:
    from cases_report import record
    from compressbench.records import Records
    from compressbench.report.panels import panels
    from compressbench.report.sections.translation import section, shown

    rows = []
    for order, (series, bleu, figures) in enumerate(
        [("dense", 8.0, (1.1, 0.0)), ("strong", 20.0, (0.4, 2.5)), ("NAT", 11.0, (None, None))]
    ):
        of = {"series": series, "order": order, "state": series}
        rows.append(record(**of, probe="translation", metric="bleu", unit="1", value=bleu))
        for metric, value in zip(("data_complexity", "data_faithfulness"), figures, strict=True):
            rows.append(record(**of, probe="translated_data", metric=metric, unit="nats", value=value))
    (panel,) = panels(Records(rows))
    built = section(panel, "")
    said, targets = built.tables
    assert len(said.heads) < len(targets.heads)
    assert "unsure" in built.lead
    assert {("translated_data", "data_complexity", False), ("translation", "bleu", False)} <= shown(
        panel, "final"
    )
    (bare,) = panels(Records(r for r in rows if r.probe == "translation"))
    assert len(section(bare, "").tables) == 1
    assert "unsure" not in section(bare, "").lead
