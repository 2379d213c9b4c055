"""Translators that say all tokens at once: alignments, complexity and faithfulness, teachers' targets, the net itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressbench.bench import Bench
from compressbench.comparing.translations import Links, aligned, complexity, faithfulness, numbered
from compressbench.data.dataset import Dataset
from compressbench.data.examples import Examples
from compressbench.data.load import load
from compressbench.deploying.handing_over import export
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.models.nat import LENGTH, ParallelTranslator, spread
from compressbench.outputs import Outputs, forward
from compressbench.probes.translated_data import TranslatedData
from compressbench.stages.train import Train
from compressbench.stages.transfer import Translated
from compressbench.tasks.text.packing import unpacked
from compressbench.training import translating
from compressbench.training.objectives import Batch
from compressbench.training.translating import with_length
from compressbench.views import View

pytest.importorskip("tokenizers")
WORDS, PLACES = 20, 6
DATA: dict[str, Any] = {
    "name": "phrases",
    "read": {"_target_": "compressbench.data.parallel.phrases", "train": 90, "test": 20},
    "task": {"_target_": "compressbench.tasks.text.translation.translation", "length": 24, "vocabulary": 300},
    "validation": 10,
}
SMALL = {"dim": 16, "depth": 1, "heads": 2, "mlp": 32, "dropout": 0.0}
TEACHER = {
    "name": "translator",
    "build": {
        "_target_": "compressbench.models.encoder_decoder.EncoderDecoder",
        "vocabulary": "@vocabulary", "length": "@length", **SMALL,
    },
}  # fmt: skip
NAT = {
    "name": "nat",
    "build": {
        "_target_": "compressbench.models.nat.ParallelTranslator",
        "vocabulary": "@vocabulary", "length": "@length", "pad": "@pad", "end": "@end", **SMALL,
    },
}  # fmt: skip


DIGITS_NET = {
    "name": "net",
    "build": {"_target_": "compressbench.models.lenet.LeNet300100", "shape": "@shape", "classes": "@classes"},
}


# alignment, C, F -------------------------------------------------------------------------------------------------------


def test_ibm_model_1_by_hand() -> None:
    """das Haus / the house, das / the: one round of EM, then the likeliest; the empty word is one of the sources.

    Round 1 from uniform: "the" of the first pair has a third of its count from each of (empty, das, Haus), that of the
    second a half from each of (empty, das). So das: the 1/3 + 1/2, house 1/3; empty the same; Haus: the 1/3, house 1/3.
    t(the|das) = (5/6) / (7/6) = 5/7, t(house|das) = 2/7, t(the|Haus) = t(house|Haus) = 1/2: house is Haus's (1/2 > 2/7),
    the is das's or the empty word's (5/7 each), the first of which is the empty one.
    """
    das, haus, the, house = 0, 1, 0, 1
    found = aligned([np.array([das, haus]), np.array([das])], [np.array([the, house]), np.array([the])], 1)
    assert (found.source.tolist(), found.target.tolist()) == ([haus], [house])
    # with a third pair, das Buch / the book, the empty word is no better than das for either noun
    nothing = aligned([np.array([das])], [np.array([], np.int64)])
    assert len(nothing.source) == len(nothing.target) == 0


def reference_ibm1(sources: Any, targets: Any, rounds: int) -> list[tuple[int, int]]:
    """The same in plain loops over dictionaries."""
    table: dict[tuple[int, int], float] = {}
    pairs = [([-1, *s.tolist()], t.tolist()) for s, t in zip(sources, targets, strict=True)]
    for s, t in pairs:
        table.update({(x, y): 1.0 for x in s for y in t})
    for _ in range(rounds):
        counts = dict.fromkeys(table, 0.0)
        for s, t in pairs:
            for y in t:
                whole = sum(table[x, y] for x in s)
                for x in s:
                    counts[x, y] += table[x, y] / whole
        sums: dict[int, float] = {}
        for (x, _), c in counts.items():
            sums[x] = sums.get(x, 0.0) + c
        table = {(x, y): c / sums[x] for (x, y), c in counts.items()}
    links = []
    for s, t in pairs:
        for y in t:
            best = max(s, key=lambda x: round(table[x, y], 12))
            if best >= 0:
                links.append((best, y))
    return links


def test_ibm_model_1_as_in_plain_loops() -> None:
    rng = np.random.RandomState(3)
    sources = [rng.randint(0, 7, rng.randint(1, 6)) for _ in range(40)]
    targets = [
        np.array([(x * 3 + (rng.rand() < 0.3)) % 9 for x in s if rng.rand() < 0.9], np.int64) for s in sources
    ]
    found = aligned(sources, targets, 4)
    assert list(zip(found.source.tolist(), found.target.tolist(), strict=True)) == reference_ibm1(
        sources, targets, 4
    )


def toy(sentences: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """(sources, mode of each sentence): every word has one translation in each of three modes, equally likely."""
    rng = np.random.RandomState(0)
    return rng.randint(0, WORDS, (sentences, PLACES)), rng.randint(0, 3, sentences)


def links_of(sources: np.ndarray, modes: np.ndarray) -> Links:
    return Links(sources.ravel(), (sources + WORDS * modes[:, None]).ravel())


def test_the_toy_of_three_modes() -> None:
    """FACTS section 12: raw C = ln 3, F = 0; one mode C = 0; a teacher that goes by the first word C = .970, F = .134."""
    sources, modes = toy()
    real = links_of(sources, modes)
    assert complexity(real) == pytest.approx(math.log(3), abs=0.002)
    assert faithfulness(real, real) == 0
    one = links_of(sources, modes * 0)
    assert complexity(one) == 0
    assert faithfulness(real, one) > 3
    assert faithfulness(real, one, 0.0) == math.inf
    # 11, 5 and 4 of the first words stand for the modes: p(own mode | word) = 1/6 + 5/6 share, of others 5/6 share
    of_word = np.repeat([0, 1, 2], [11, 5, 4])
    by_first = links_of(sources, of_word[sources[:, 0]])
    p = np.tile(5 / 6 * np.array([11, 5, 4]) / 20, (WORDS, 1))
    p[np.arange(WORDS), of_word] += 1 / 6
    c, f = -(p * np.log(p)).sum(1).mean(), (np.log(1 / 3 / p) / 3).sum(1).mean()
    assert (c, f) == (pytest.approx(0.970, abs=0.005), pytest.approx(0.134, abs=0.006))
    assert complexity(by_first) == pytest.approx(c, abs=0.005)
    assert faithfulness(real, by_first) == pytest.approx(f, abs=0.005)


def test_alignment_finds_the_words_of_the_toy() -> None:
    sources, modes = toy(600)
    targets = sources + WORDS * modes[:, None]
    found = aligned(list(sources), list(targets[:, ::-1]))  # in another order, so that no place tells it
    assert len(found.source) == sources.size
    assert (found.target % WORDS == found.source).all()


def test_faithfulness_by_hand() -> None:
    """One word, real a 3 times and b once, made a and c once each; 0.5 is added to each of a, b, c in both."""
    real, made = (
        Links(np.zeros(4, int), np.array([0, 0, 0, 1])),
        Links(np.array([0, 0, 7]), np.array([0, 2, 5])),
    )
    p, q = np.array([3.5, 1.5, 0.5]) / 5.5, np.array([1.5, 0.5, 1.5]) / 3.5
    assert faithfulness(real, made, 0.5) == pytest.approx((p * np.log(p / q)).sum())
    assert complexity(real) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert math.isnan(complexity(Links(np.zeros(0, int), np.zeros(0, int))))


def test_words_are_numbered_alike() -> None:
    known: dict[str, int] = {}
    assert [n.tolist() for n in numbered(["a dog.", "", "a cat"], known)] == [[0, 1, 2], [], [0, 3]]
    assert numbered(["cat ."], known)[0].tolist() == [3, 2]


# the net ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load(DATA)


def test_a_target_copies_its_source_evenly() -> None:
    found = spread(torch.tensor([4, 2, 5]), torch.tensor([2, 4, 5]), torch.arange(5))
    assert found.tolist() == [[0, 2, 3, 3, 3], [0, 0, 1, 1, 1], [0, 1, 2, 3, 4]]


@pytest.fixture(scope="module")
def net() -> ParallelTranslator:
    torch.manual_seed(0)
    made = ParallelTranslator(30, 10, pad=0, end=3, **SMALL).eval()  # type: ignore[arg-type]
    for name, weight in made.named_parameters():
        if name.endswith("weight") and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return made


SOURCE = torch.tensor([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0]])
MASK = (SOURCE != 0).long()
TARGET_SEEN = torch.tensor(
    [[2, 11, 12, 13], [2, 14, 3, 0]]
)  # of the second the end is among what the decoder is given


@pytest.mark.parametrize("at_once", [True, False])
def test_what_no_file_can_say_is_not_exported(net: ParallelTranslator, at_once: bool, tmp_path: Path) -> None:
    """A net that tells its length first; one whose task doesn't say how to decode with a file."""
    task = SimpleNamespace(said=None)
    module = net if at_once else torch.nn.Identity()
    view: Any = SimpleNamespace(leaves_early=False, module=module, bench=SimpleNamespace(task=task))
    node: Any = SimpleNamespace(name="late")
    message = "export: late tells a length first" if at_once else r"its task has no decoding\(\)"
    with pytest.raises(UserError, match=message):
        export(cast(Any, None), view, node, "onnx", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_it_says_is_of_its_own_length_alone(net: ParallelTranslator) -> None:
    with torch.no_grad():
        both = forward(net, SOURCE, MASK, TARGET_SEEN)
        alone = forward(net, SOURCE[1:, :3], MASK[1:, :3], TARGET_SEEN[1:, :2])
        assert both.logits.shape == (2, 4, 30)
        assert both.taps[LENGTH].shape == (2, 10)
        assert torch.allclose(both.logits[1, :2], alone.logits[0], atol=1e-5)
        assert torch.allclose(both.taps[LENGTH][1], alone.taps[LENGTH][0], atol=1e-5)
        # of the target nothing but its length is read
        other = torch.tensor([[2, 21, 22, 23], [2, 24, 3, 0]])
        assert torch.equal(forward(net, SOURCE, MASK, other).logits, both.logits)
        longer = torch.tensor([[2, 11, 12, 13], [2, 14, 15, 0]])
        assert not torch.allclose(forward(net, SOURCE, MASK, longer).logits[1], both.logits[1])


def test_what_targets_begin_with_counts_whatever_its_id(net: ParallelTranslator) -> None:
    """Some tokenizers begin targets with the id that pads, as Marian's and T5's, some with the one that ends."""
    with torch.no_grad():
        wanted = forward(net, SOURCE, MASK, TARGET_SEEN).logits
        for begin in (net.pad, net.end):
            other = torch.cat((torch.full((2, 1), begin), TARGET_SEEN[:, 1:]), dim=1)
            assert torch.equal(forward(net, SOURCE, MASK, other).logits, wanted)


def test_all_at_once_is_the_likeliest_of_the_likeliest_length(net: ParallelTranslator) -> None:
    with torch.no_grad():
        found = net.at_once(SOURCE, MASK, torch.tensor([9, 9]))
        lengths = forward(net, SOURCE, MASK, TARGET_SEEN).taps[LENGTH].argmax(1).clamp(min=1)
        assert len(set(lengths.tolist())) == 2
        for row, length in enumerate(lengths.tolist()):
            seen = torch.full((1, length), 11)
            wanted = (
                forward(net, SOURCE[row : row + 1], MASK[row : row + 1], seen).logits[0].argmax(1).tolist()
            )
            stop = wanted.index(3) + 1 if 3 in wanted else length
            assert found[row].tolist() == wanted[:stop] + [-1] * (found.shape[1] - stop)
        short = net.at_once(SOURCE, MASK, torch.tensor([2, 1]))
        assert short.shape[1] <= 2
        assert (short >= 0).sum(1).tolist() == [
            min(a, b) for a, b in zip(lengths.tolist(), (2, 1), strict=True)
        ]


def test_after_an_end_nothing_is_said(net: ParallelTranslator) -> None:
    made = ParallelTranslator(30, 10, pad=0, end=3, **SMALL).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.translator.fc.bias[3] = 99.0
        made.length.bias[6] = 99.0
        found = made.at_once(SOURCE, MASK, torch.tensor([9, 9]))
        assert found.tolist() == [[3, *[-1] * 5]] * 2
        made.translator.fc.bias[3] = math.nan
        assert (made.at_once(SOURCE, MASK, torch.tensor([9, 9])) == -1).all()


def test_the_task_says_it_in_one_pass(data: Dataset) -> None:
    bench = Bench(data, 0, "nat")
    view = View(drawn(NAT, bench), bench, "nat")
    inputs = bench.task.encode(bench.feed("test").head(4))
    calls = []
    view.module.register_forward_pre_hook(lambda *_: calls.append(1))
    task: Any = bench.task
    said = task.said(view.module, inputs)
    limits = (inputs[1].sum(1) + task.beyond).clamp(max=task.length - 1)
    assert torch.equal(said, view.module.at_once(inputs[0], inputs[1], limits))  # type: ignore[operator]
    assert not calls
    assert len(view.answers) == 20
    with pytest.raises(UserError, match="beam 4: the model says all tokens at once"):
        task.said(view.module, inputs, 4)


# training --------------------------------------------------------------------------------------------------------------

ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True}
LENGTHS = {"_target_": "compressbench.training.translating.with_length", "_partial_": True, "weight": 0.1}


def test_the_loss_is_of_tokens_and_of_their_number(data: Dataset) -> None:
    bench = Bench(data, 0, "nat")
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([[4, 5, 3], [4, 3, -1]])
    logits, told = torch.randn(2, 3, 300, generator=draw), torch.randn(2, 24, generator=draw)
    batch = Batch(Outputs(logits, {LENGTH: told}), (), labels, torch.arange(2))
    wanted = F.nll_loss(logits[labels >= 0].log_softmax(1), labels[labels >= 0])
    wanted = wanted + 0.5 * -told.log_softmax(1)[[0, 1], [3, 2]].mean()
    assert float(with_length(bench, 0.5)(batch)) == pytest.approx(float(wanted), rel=1e-6)
    with pytest.raises(UserError, match="the model tells no length"):
        with_length(bench)(replace(batch, outputs=Outputs(logits)))
    with pytest.raises(UserError, match="weight: -1 is below 0"):
        with_length(bench, -1)


def test_it_learns_targets_and_lengths(data: Dataset) -> None:
    bench = Bench(data, 0, "nat")
    state = drawn(NAT, bench)
    settings = Train(length="12ep", batch_size=16, lr=0.01, optimizer=ADAM, objective=LENGTHS)
    after = settings.apply(state, bench)
    batch = bench.feed("train").head(40)

    def figures(which: Any) -> tuple[float, float]:
        view = View(which, bench, "x")
        with torch.no_grad():
            outputs = forward(view.module, bench.task.encode(batch))
        wanted = (batch.labels >= 0).sum(1)
        return float(bench.task.loss(outputs, batch.labels)), float(
            F.cross_entropy(outputs.taps[LENGTH], wanted)
        )

    (loss, length), (loss_before, length_before) = figures(after), figures(state)
    assert loss < 0.7 * loss_before
    assert length < 0.9 * length_before


# a teacher's targets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(data: Dataset) -> Iterator[tuple[Bench, Any]]:
    """(bench, the state that carries a teacher's translations); the teacher learnt nothing yet says something."""
    bench = Bench(data, 0, "teacher")
    state = drawn(TEACHER, bench)
    settings = Train(length="8ep", batch_size=16, lr=0.01, optimizer=ADAM)
    state = replace(settings.apply(state, bench), key="teacher")
    bench = replace(bench, references={"teacher": state}, name="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translating, "AT_ONCE", 16)  # several batches, put back in order
        yield bench, replace(Translated("teacher").apply(state, bench), key="carrying")


def test_a_teacher_translates_every_source(taught: tuple[Bench, Any]) -> None:
    bench, state = taught
    task: Any = bench.task
    train = bench.dataset.split("train")
    made = Examples.made(state.group("data"), classes=len(task.classes))
    assert unpacked(made["text"]) == unpacked(train["text"])
    assert made.labelled
    module = View(bench.references["teacher"], bench, "teacher").module
    for row in (0, 7, 79):
        said = task.said(module, task.encode(train.take([row]).to("cpu")))
        (text,) = task.spelled(said)
        assert unpacked(made["target"][[row]]) == [text]
        ids, _ = task.numbered([text])
        assert made["target_ids"][[row]].values.tolist() == ids[0].tolist()
        assert made.labels[row, : len(ids[0]) - 1].tolist() == ids[0][1:].tolist()
    assert unpacked(made["target"]) != unpacked(train["target"])


def test_training_takes_the_teachers_targets(taught: tuple[Bench, Any]) -> None:
    bench, state = taught
    bench = replace(bench, references={"told": state}, name="nat")
    start = drawn(NAT, bench)
    settings = Train(length="6ep", batch_size=16, lr=0.01, optimizer=ADAM, objective=LENGTHS)
    real, told = settings.apply(start, bench), replace(settings, data="told").apply(start, bench)
    made = Examples.made(state.group("data")).head(60)

    def loss(which: Any) -> float:
        view = View(which, bench, "x")
        with torch.no_grad():
            return float(bench.task.loss(forward(view.module, bench.task.encode(made)), made.labels))

    assert loss(told) < loss(real)
    assert not told.group("data")


def test_complexity_and_faithfulness_of_what_a_state_carries(taught: tuple[Bench, Any]) -> None:
    bench, state = taught
    teacher = View(bench.references["teacher"], bench, "teacher")
    found = {m.name: m for m in TranslatedData().measure(View(state, bench, "data"), teacher, bench)}
    known: tuple[dict[str, int], dict[str, int]] = {}, {}
    made, train = Examples.made(state.group("data")), bench.dataset.split("train")
    real, said = (
        aligned(numbered(unpacked(e["text"]), known[0]), numbered(unpacked(e["target"]), known[1]))
        for e in (train, made)
    )
    assert found["data_complexity"].value == complexity(said)
    assert found["data_faithfulness"].value == faithfulness(real, said, 0.1)
    assert found["data_faithfulness"].value > 0
    assert "smoothing 0.1" in found["data_faithfulness"].note
    own = {m.name: m.value for m in TranslatedData().measure(teacher, teacher, bench)}
    assert own == {"data_complexity": complexity(real), "data_faithfulness": 0}
    other = View(replace(bench.references["teacher"], key="another"), bench, "other")
    assert all(m.value is None for m in TranslatedData().measure(other, teacher, bench))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Translated("teacher", beam=0), "beam: 0 must be"),
        (lambda: TranslatedData(smoothing=0), "smoothing is 0, must be above 0"),
        (lambda: TranslatedData(rounds=0), "rounds is 0, must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_one_line(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_pictures_have_no_translations() -> None:
    digits = load({"name": "digits", "read": {"_target_": "compressbench.data.idx.digits"}})
    assert TranslatedData().unfit(digits) == "the examples are no sentence pairs"
    bench = Bench(digits, 0, "data")
    view = View(drawn(DIGITS_NET, bench), bench, "net")
    assert [m.note for m in TranslatedData().measure(view, view, bench)] == [
        "the examples are no sentence pairs"
    ] * 2
    with pytest.raises(UserError, match="the task of digits translates nothing"):
        Translated("teacher").apply(None, bench)  # type: ignore[arg-type]
