"""Language models: what is asked, seen and measured token by token, against numpy and scipy; nothing kept whole."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr
from torch import Tensor, nn

from cases_report import accuracies, record
from compressbench.bench import Bench
from compressbench.checking.tasks import check_task
from compressbench.comparing.sequences import ended, first_difference
from compressbench.data.dataset import Dataset
from compressbench.data.examples import Examples, known
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.models.language_model import LanguageModel
from compressbench.outputs import Outputs
from compressbench.probes.accuracy import Accuracy
from compressbench.probes.forgetting import Forgetting
from compressbench.probes.loyalty import Loyalty
from compressbench.probes.next_tokens import NextTokens, greedy
from compressbench.records import Record, Records
from compressbench.report.answers import answers, asked, spoken_of
from compressbench.report.findings import summary
from compressbench.report.judged import judged, loss
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.picks import chosen, states_of
from compressbench.report.sections import next_tokens, others
from compressbench.stages.quantize import Quantize
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.tasks.text.next_token import NextToken, next_token
from compressbench.tasks.text.packing import packed
from compressbench.tasks.text.tokens import trained
from compressbench.views import View

pytest.importorskip("tokenizers")
LENGTH, VOCABULARY = 16, 500
DATA = {
    "name": "glosses_lm",
    "read": {"_target_": "compressbench.data.texts.glosses"},
    "task": {
        "_target_": "compressbench.tasks.text.next_token.next_token",
        "length": LENGTH,
        "vocabulary": VOCABULARY,
    },
    "train_size": 400,
    "test_size": 40,
    "validation": 10,
}
MODEL = {
    "name": "language_model",
    "build": {
        "_target_": "compressbench.models.language_model.LanguageModel",
        "vocabulary": "@vocabulary", "length": "@length", "dim": 16, "depth": 2, "heads": 2, "mlp": 32,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load(DATA)


def loud(state: State, factor: float) -> State:
    """A state that is surer: as drawn, all that is said is nearly as likely."""
    weights = {n: w * factor if n == "fc.weight" else w for n, w in state.group("weights").items()}
    return state.with_groups(weights=weights)


@pytest.fixture(scope="module")
def pair(data: Dataset) -> tuple[View, View]:
    """(subject, reference): two draws."""
    bench = Bench(data, 0, "init")
    found = [loud(drawn(MODEL, replace(bench, seed=seed)), 20.0) for seed in (1, 2)]
    return View(found[0], bench, "subject"), View(found[1], bench, "reference")


def whole(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log-probabilities, labels, owners) of all test tokens, by the module and scipy, one text at a time."""
    task, test = view.bench.task, view.bench.feed("test")
    scores, labels, owners = [], [], []
    for row in range(len(test)):
        ids, mask = task.encode(test.take([row]))
        with torch.no_grad():
            logits = view.module(ids, mask)[0].double().numpy()
        told = test.labels[row].numpy()
        there = np.flatnonzero(told >= 0)
        scores.append(log_softmax(logits[there], axis=1))
        labels.append(told[there])
        owners.append(np.full(len(there), row))
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(owners)


def values(metrics: Any) -> dict[tuple[str, str], float | None]:
    return {(m.name, m.group): m.value for m in metrics}


# the task --------------------------------------------------------------------------------------------------------------


def test_each_label_is_the_token_after(data: Dataset) -> None:
    task = data.task
    assert isinstance(task, NextToken)
    texts = ["the tissue of a plant", "", "one of the very many kinds of very long definitions " * 4]
    made = task.prepared(Examples.of(np.zeros(3), text=packed(texts)))
    ids, mask = task.encode(made.to("cpu"))
    assert ids.shape == mask.shape == (3, LENGTH)
    for row, text in enumerate(texts):
        (all_of_it, _), *_ = task.tokenizer.encoded([text])
        seen = min(len(all_of_it) - 1, LENGTH)
        assert ids[row, :seen].tolist() == all_of_it[:seen]
        assert made.labels[row, :seen].tolist() == all_of_it[1 : seen + 1]
        assert (made.labels[row, seen:] == -1).all()
        assert mask[row].tolist() == [1] * seen + [0] * (LENGTH - seen)
    assert made["bytes"].tolist() == [len(texts[0]) if len(task.beginning(texts[0])) <= LENGTH else 0, 0, 0]
    # the text whose end is the last thing that is predicted is seen whole, one token more is not
    letters = ["q" * k for k in range(1, 3 * LENGTH)]
    counts = [len(ids) for ids, _ in task.tokenizer.encoded(letters)]
    fits, over = letters[counts.index(LENGTH + 1)], letters[counts.index(LENGTH + 2)]
    assert task.prepared(Examples.of(np.zeros(2), text=packed([fits, over])))["bytes"].tolist() == [
        len(fits),
        0,
    ]
    check_task(data)


def test_an_empty_text_is_answered_whatever_the_tokenizer_marks() -> None:
    from tokenizers import Tokenizer as Made

    made = Made.from_str(trained(["a b c"] * 3, 270).json)
    made.post_processor = None  # as GPT-2's: nothing before, nothing after
    from compressbench.tasks.text.tokens import Tokenizer

    task = NextToken(Tokenizer(made.to_str()), 4)
    found = task.prepared(Examples.of(np.zeros(2), text=packed(["", "a"])))
    begin = made.token_to_id("[CLS]")
    assert [row.tolist() for row in np.split(found["ids"].values, found["ids"].starts[1:-1])] == [
        [begin],
        [begin],
    ]
    assert found.labels[:, 0].tolist() == [-1, made.encode("a").ids[0]]
    assert known(found.labels).tolist() == [False, True]


def test_a_begin_is_put_where_the_tokenizer_marks_the_end_alone(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own rule it ends texts and begins none; the lines that are handed over give what the model was taught."""
    from tokenizers import Tokenizer as Made
    from tokenizers import processors

    from compressbench.tasks.text.tokens import Tokenizer

    made = Made.from_str(trained(["a b c"] * 3, 270).json)
    made.add_special_tokens(["</s>"])
    end, begin = (made.token_to_id(name) for name in ("</s>", "[CLS]"))
    letters = [made.encode(letter, add_special_tokens=False).ids for letter in "abc"]
    flat = [k for ids in letters for k in ids]
    for single, before, length in (
        ("$A </s>", [begin], 8),
        ("[CLS] $A </s>", [], 8),
        ("$A </s>", [begin], 4),
    ):
        made.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("</s>", end), ("[CLS]", begin)]
        )
        task = NextToken(Tokenizer(made.to_str()), length)
        assert task.tokenizer.end == end
        found = task.prepared(Examples.of(np.zeros(2), text=packed(["a b c", "a"]))).to("cpu")
        wanted = ([begin, *flat, end], [begin, *letters[0], end])
        for row, ids in enumerate(wanted):
            told = ids[1 : length + 1]
            assert found.labels[row, : len(told)].tolist() == told
        (tmp_path / "tokenizer.json").write_bytes(task.beside()["tokenizer.json"])
        monkeypatch.chdir(tmp_path)
        room: dict[str, Any] = {"texts": ["a b c", "a"]}
        exec("\n".join(task.feeding()[1]), room)
        given = room["inputs"]
        assert given["input_ids"].shape == given["attention_mask"].shape
        assert given["input_ids"].shape[1] <= length
        for row, ids in enumerate(wanted):
            seen = [*ids[: length - 1], end] if len(ids) > length else ids
            there = given["attention_mask"][row].astype(bool)
            assert given["input_ids"][row][there].tolist() == seen
        assert task.beginning("a") == [begin, *letters[0]]
        assert len(task._begin()) == len(before)


def test_a_row_of_a_sequence_is_known_where_anything_is() -> None:
    assert known(torch.tensor([[3, -1], [-1, -1]])).tolist() == [True, False]
    assert known(torch.tensor([[1.0, 0.0], [1.0, -1.0]])).tolist() == [True, False]
    assert known(torch.tensor([2, -1])).tolist() == [True, False]
    assert Examples.of(np.array([[3, -1], [4, 5]])).labelled


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"length": 1}, "length is 1, must be 2 to 4096"), ({"vocabulary": 9}, "vocabulary is 9")],
)
def test_settings_out_of_range_are_one_line(settings: dict[str, Any], said: str) -> None:
    some = Examples.of(np.zeros(2), text=packed(["a", "b"]))
    with pytest.raises(UserError, match=said):
        next_token(some, ("a",), **settings)
    with pytest.raises(UserError, match="no texts"):
        next_token(Examples.of(np.zeros(1), images=np.zeros((1, 1, 2, 2), np.uint8)), ("a",))


def test_a_users_own_texts_need_no_labels(tmp_path: Any) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("text\n" + "".join(f"line {k} of mine\n" for k in range(20)))
    config = {
        "name": "mine",
        "read": {
            "_target_": "compressbench.data.texts.text_file", "train": str(path), "label": None, "test_fraction": 0.25,
        },
        "task": {**DATA["task"], "vocabulary": 270},  # type: ignore[dict-item]
    }  # fmt: skip
    found = load(config)
    assert (len(found.split("train")), len(found.split("test"))) == (15, 5)
    assert found.split("test").labels.shape == (5, LENGTH)
    config["task"] = {"_target_": "compressbench.tasks.text.classification.text_classification"}
    with pytest.raises(UserError, match="dataset mine: one class, text; classification needs two or more"):
        load(config)


# the model -------------------------------------------------------------------------------------------------------------


def test_a_token_sees_what_was_before_it_alone() -> None:
    torch.manual_seed(0)
    net = LanguageModel(30, 6, 16, 2, 2, 32).eval()
    ids, mask = torch.randint(0, 30, (4, 6)), torch.ones(4, 6, dtype=torch.int64)
    with torch.no_grad():
        logits = net(ids, mask)
        other = ids.clone()
        other[:, 3] = (ids[:, 3] + 1) % 30
        changed = net(other, mask)
        assert torch.equal(logits[:, :3], changed[:, :3])
        assert ((logits - changed)[:, 3:].abs().amax(dim=2) > 1e-4).all()
        # fewer tokens, the rest padded: what is there is answered alike
        short = mask.clone()
        short[:, 4:] = 0
        padded = net(ids.masked_fill(short == 0, 7), short)
        assert torch.allclose(padded[:, :4], logits[:, :4], atol=1e-6)
        assert padded.isfinite().all()
    with pytest.raises(UserError, match="heads 3 does not divide dim 16"):
        LanguageModel(30, 6, 16, 2, 3, 32)


# figures ---------------------------------------------------------------------------------------------------------------


def test_perplexity_and_bits_per_byte(pair: tuple[View, View]) -> None:
    view, _ = pair
    scores, labels, owners = whole(view)
    own = scores[np.arange(len(labels)), labels]
    found = values(Accuracy().measure(view, view, view.bench))
    assert found["perplexity", ""] == pytest.approx(math.exp(-own.mean()), rel=1e-5)
    assert found["nll", ""] == pytest.approx(-own.mean(), rel=1e-5)
    assert found["token_top1", ""] == pytest.approx(100 * (scores.argmax(1) == labels).mean())
    texts = view.bench.dataset.split("test")["text"]
    sizes = np.diff(texts.starts)
    fits = np.array(_fit(view))
    assert 0 < fits.sum() < len(fits)
    nats = -own[fits[owners]].sum()
    told = list(NextTokens(tokens=3).measure(view, view, view.bench))
    said = values(told)
    (note,) = (metric.note for metric in told if metric.name == "bits_per_byte")
    assert f"{len(fits) - fits.sum()} texts that are cut or empty" in note
    assert "only where none is cut" in note
    assert said["bits_per_byte", ""] == pytest.approx(nats / np.log(2) / sizes[fits].sum(), rel=1e-5)
    assert said["perplexity", ""] == found["perplexity", ""]
    confidence = np.exp(scores.max(1))
    bins = np.ceil(confidence * 15).clip(1, 15)
    gaps = [abs((confidence - (scores.argmax(1) == labels))[bins == b].sum()) for b in range(1, 16)]
    assert found["ece", ""] == pytest.approx(100 * sum(gaps) / len(labels), rel=1e-4)


def _fit(view: View) -> list[bool]:
    """Which test texts are seen whole."""
    from compressbench.tasks.text.packing import unpacked

    task = view.bench.task
    found = task.tokenizer.encoded(unpacked(view.bench.dataset.split("test")["text"]))
    return [len(ids) <= LENGTH + 1 for ids, _ in found]


def test_kl_flips_and_loyalty_against_scipy(pair: tuple[View, View]) -> None:
    own, other = pair
    (q, _, owners), (p, _, _) = whole(own), whole(other)
    kl = rel_entr(np.exp(p), np.exp(q)).sum(1)
    found = values(NextTokens(tokens=3).measure(own, other, own.bench))
    assert found["kl", ""] == pytest.approx(kl.mean(), rel=1e-4)
    for name, at in (("kl_50", 50), ("kl_90", 90), ("kl_99", 99), ("kl_99_9", 99.9), ("kl_max", 100)):
        assert found[name, ""] == pytest.approx(np.percentile(kl, at), rel=1e-4), name
    same = p.argmax(1) == q.argmax(1)
    assert 0 < same.mean() < 1
    assert found["flipped", ""] == pytest.approx(100 * (1 - same.mean()))
    near = 1 - np.array([jensenshannon(a, b) for a, b in zip(np.exp(p), np.exp(q), strict=True)])
    loyal = values(Loyalty().measure(own, other, own.bench))
    assert loyal["label_loyalty", ""] == pytest.approx(100 * same.mean())
    assert loyal["probability_loyalty", ""] == pytest.approx(100 * near.mean(), rel=1e-5)
    assert loyal["probability_loyalty_base2", ""] == pytest.approx(
        100 * np.mean([1 - jensenshannon(a, b, 2) for a, b in zip(np.exp(p), np.exp(q), strict=True)]),
        rel=1e-5,
    )
    assert loyal["kl", ""] == found["kl", ""]
    kinds = own.bench.dataset.groups["kind"]
    codes = own.bench.feed("test").groupings["kind"].numpy()[owners]
    for place, kind in enumerate(kinds):
        if (codes == place).any():
            wanted = 100 * near[codes == place].mean()
            assert loyal["probability_loyalty", f"kind={kind}"] == pytest.approx(wanted, rel=1e-5)


def test_a_state_beside_itself(pair: tuple[View, View]) -> None:
    view, other = pair
    again = View(view.state, view.bench, "again")
    for reference in (view, again):
        found = values(NextTokens(tokens=3).measure(view, reference, view.bench))
        assert found["kl_max", ""] == found["flipped", ""] == 0
        assert (found["never_diverges", ""], found["first_divergence", ""]) == (100, 4)
        loyal = values(Loyalty().measure(view, reference, view.bench))
        assert loyal["label_loyalty", ""] == loyal["probability_loyalty", ""] == 100
    assert values(NextTokens(tokens=3).measure(view, other, view.bench))["never_diverges", ""] < 100


def test_nothing_is_kept_whole(pair: tuple[View, View], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows of a vocabulary at once than sixteen texts have tokens; all probes of answers, both views."""
    seen: list[int] = []
    true = NextToken.log_probs

    def noted(self: NextToken, outputs: Outputs, labels: Tensor) -> Any:
        found = true(self, outputs, labels)
        seen.append(len(found.log_probs))
        return found

    monkeypatch.setattr(NextToken, "log_probs", noted)
    views = [View(v.state, v.bench, v.label) for v in pair]
    for probe in (Accuracy(), Loyalty(), NextTokens(tokens=3)):
        list(probe.measure(views[0], views[1], views[0].bench))
    assert max(seen) <= 16 * LENGTH < sum(seen) / 4
    with pytest.raises(UserError, match="all log-probabilities of texts of up to 16 tokens are never kept"):
        _ = views[0].log_probs


def test_answers_that_are_no_numbers_agree_with_nothing(pair: tuple[View, View]) -> None:
    view, _ = pair
    weights = {n: w.clone() for n, w in view.state.group("weights").items()}
    test = view.bench.feed("test")
    token = int(test["ids"].values[test["ids"].starts[3] + 2])
    weights["tokens.weight"][token] = math.nan
    lost = View(view.state.with_groups(weights=weights), view.bench, "lost")
    there = np.array([token in test["ids"][[row]].values for row in range(len(test))])
    assert 0 < there.sum() < len(there)
    assert lost.unanswered == there.sum()
    found = {m.name: m for m in Loyalty().measure(lost, lost, view.bench) if not m.group}
    pieces = (test.labels >= 0).sum(dim=1).numpy()
    assert found["label_loyalty"].value == pytest.approx(100 * pieces[~there].sum() / pieces.sum())
    assert "no numbers" in found["label_loyalty"].note


def test_where_vocabularies_differ_only_bits_per_byte_is_told(pair: tuple[View, View]) -> None:
    view, _ = pair
    wider = load({**DATA, "task": {**DATA["task"], "vocabulary": VOCABULARY + 20}})  # type: ignore[dict-item]
    bench = Bench(wider, 0, "init")
    other = View(drawn(MODEL, bench), bench, "reference")
    found = {m.name: m for m in NextTokens(tokens=3).measure(view, other, view.bench)}
    assert found["bits_per_byte"].value is not None
    for name in ("kl", "kl_99_9", "flipped", "first_divergence", "never_diverges"):
        assert found[name].value is None
        assert found[name].note == (
            "vocabularies differ (500 logits a token, the reference 520): only bits per byte can be compared"
        )
    loyal = {m.name: m for m in Loyalty().measure(view, other, view.bench)}
    assert loyal["label_loyalty"].value is None


def test_an_exported_file_is_checked_token_by_token(pair: tuple[View, View]) -> None:
    from compressbench.deploying.handing_over import check

    own, other = pair

    def compute(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return other.module(*inputs)

    (q, labels, _), (p, _, _) = whole(own), whole(other)
    found = check(own, compute, "torch")
    assert found.n == len(labels)
    assert found.agreement == pytest.approx(100 * (p.argmax(1) == q.argmax(1)).mean())
    assert found.top1 == pytest.approx(100 * (p.argmax(1) == labels).mean())
    assert found.simulated == pytest.approx(100 * (q.argmax(1) == labels).mean())
    assert found.difference == pytest.approx(np.abs(p - q).max(), rel=1e-4)


# continuations ---------------------------------------------------------------------------------------------------------


def test_where_continuations_part_by_hand() -> None:
    one = np.array([[5, 6, 7], [5, 6, 7], [5, 6, 7]])
    other = np.array([[5, 6, 7], [5, 0, 7], [1, 6, 7]])
    assert first_difference(one, other).tolist() == [0, 2, 1]
    assert ended(np.array([[4, 3, 9], [3, 3, 1], [1, 2, 4]]), 3).tolist() == [[4, 3, 3], [3, 3, 3], [1, 2, 4]]
    assert ended(np.array([[3, 9]]), None).tolist() == [[3, 9]]


def test_greedy_says_the_likeliest(pair: tuple[View, View]) -> None:
    view, _ = pair
    start = [2, 40, 41]
    said = list(start)
    for _ in range(4):
        with torch.no_grad():
            logits = view.module(torch.tensor([said]), torch.ones(1, len(said), dtype=torch.int64))
        said.append(int(logits[0, -1].argmax()))
    found = greedy(view, torch.tensor([start, [2, 9, 9]]), 4)
    assert found.shape == (2, 4)
    assert found[0].tolist() == said[3:]


def test_the_memory_changes_no_token(pair: tuple[View, View], monkeypatch: pytest.MonkeyPatch) -> None:
    from compressbench.models.language_model import LanguageModel

    view, other = pair
    beginnings = torch.tensor([[2, 40, 41], [2, 9, 9]])
    kept = [greedy(v, beginnings, 8) for v in (view, other)]
    steps: list[int] = []
    own = LanguageModel.step
    monkeypatch.setattr(LanguageModel, "step", lambda self, *given: steps.append(1) or own(self, *given))
    assert (greedy(view, beginnings, 8) == kept[0]).all()
    assert len(steps) == 7
    monkeypatch.setattr(LanguageModel, "remembers", False)
    asked = [greedy(v, beginnings, 8) for v in (view, other)]
    assert len(steps) == 7
    for one, again in zip(kept, asked, strict=True):
        assert (one == again).all()


def test_a_net_without_one_of_its_layers_goes_on_too(pair: tuple[View, View]) -> None:
    from compressbench.models.cutting import Passed

    whole, _ = pair
    view = View(whole.state, whole.bench)
    assert view.module.remembers
    view.module.layers[0] = Passed()  # type: ignore[index, operator]
    assert not view.module.remembers
    said = [2, 40, 41]
    for _ in range(4):
        with torch.no_grad():
            logits = view.module(torch.tensor([said]), torch.ones(1, len(said), dtype=torch.int64))
        said.append(int(logits[0, -1].argmax()))
    assert greedy(view, torch.tensor([[2, 40, 41]]), 4)[0].tolist() == said[3:]


def test_given_prompts(pair: tuple[View, View]) -> None:
    view, other = pair
    found = {m.name: m for m in NextTokens(["a", "of the"], tokens=3).measure(view, other, view.bench)}
    assert found["never_diverges"].n == 2
    task = view.bench.task
    firsts = []
    for text in ("a", "of the"):
        ids = task.beginning(text)
        assert ids[-1] != task.tokenizer.end
        both = [greedy(v, torch.tensor([ids]), 3)[0] for v in (view, other)]
        apart = np.flatnonzero(both[0] != both[1])
        firsts.append(apart[0] + 1 if len(apart) else 4)
    assert found["first_divergence"].value == pytest.approx(np.mean(firsts))
    with pytest.raises(UserError, match="and with 15 said ones more than the 16"):
        list(NextTokens(["of the"], tokens=15).measure(view, other, view.bench))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 0}, "tokens is 0, must be 1 or more"),
        ({"prompts": "a"}, "prompts is a list"),
        ({"known": 4, "tokens": 13}, "4 known and 13 said tokens are more than the 16"),
    ],
)
def test_a_probe_that_fits_not_is_one_line(data: Dataset, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        NextTokens(**settings).check(data)


def test_another_task_is_refused(data: Dataset) -> None:
    digits = load({"name": "digits", "read": {"_target_": "compressbench.data.idx.digits"}})
    NextTokens().check(digits)  # it is said at the start, not refused
    assert NextTokens().unfit(digits) == "it is of language models, and the task isn't next tokens"
    assert not NextTokens().unfit(data)
    assert Forgetting().unfit(data) == "it is of examples with one answer, and these are said token by token"
    assert not Forgetting().unfit(digits)
    own = Bench(data, 0, "init")
    assert [m.value for m in Forgetting().measure(None, None, own)] == [None, None]  # type: ignore[arg-type]
    bench = Bench(digits, 0, "init")
    found = list(NextTokens().measure(None, None, bench))  # type: ignore[arg-type]
    assert {m.note for m in found} == {"it is of language models, and the task isn't next tokens"}
    assert all(m.value is None for m in found)


# training --------------------------------------------------------------------------------------------------------------


def test_it_learns_and_the_validation_loss_is_over_tokens() -> None:
    # more than one batch of validation, the last one of longer texts
    longer = {**DATA["task"], "length": 48}  # type: ignore[dict-item]
    data = load({**DATA, "task": longer, "validation": 300})
    bench = Bench(data, 0, "dense")
    state = drawn(MODEL, bench)
    settings = Train(length="8ep", batch_size=20, lr=0.003, optimizer=ADAM, validate="8ep")
    after = settings.apply(state, bench)
    (point,) = after.facts["curve"]
    assert "validation_perplexity" not in point
    view = View(after, Bench(replace(data, splits={**data.splits, "test": data.split("validation")}), 0), "x")
    scores, labels, _ = whole(view)
    assert point["validation_loss"] == pytest.approx(-scores[np.arange(len(labels)), labels].mean(), rel=1e-4)
    before = View(state, bench, "before")
    assert View(after, bench, "after").told.likelihood.mean() > before.told.likelihood.mean() + 0.1


ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True}


class Constant(nn.Module):
    """Logits that don't depend on what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.fc(attention_mask.float()[..., None] * 0 + 1)


def test_a_net_that_says_one_row_a_text_is_refused(data: Dataset) -> None:
    class Flat(Constant):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids, attention_mask)[:, 0]

    globals()["Flat"] = Flat
    bench = Bench(data, 0, "init")
    for name, fits in (("Constant", True), ("Flat", False)):
        model = {"name": name, "build": {"_target_": f"test_language_models.{name}"}}
        if fits:
            assert drawn(model, bench).group("weights")
        else:
            with pytest.raises(UserError, match=r"gives \(500,\) outputs of each text"):
                drawn(model, bench)


# report ----------------------------------------------------------------------------------------------------------------


def rows_of(metric: str = "perplexity", unit: str = "1") -> list[Record]:
    """Dense 50; at fewer bytes 50.2, 60, 52: near is within 1 %, and more is worse."""
    rows: list[Record] = []
    for series, order, figure, size in (
        ("dense", 0, 50.0, 4000), ("few", 1, 50.2, 2000), ("fewer", 2, 60.0, 1000), ("middle", 3, 52.0, 1500),
    ):  # fmt: skip
        for row in accuracies(series, order, 1.0, {0: figure, 1: figure + 0.1}):
            rows.append(replace(row, metric=metric, unit=unit))
        for seed in (0, 1):
            rows.append(record(series=series, order=order, seed=seed, density=1.0, probe="cost",
                               metric="dense_bytes", value=float(size), unit="bytes"))  # fmt: skip
    return rows


def test_the_report_knows_that_less_perplexity_is_better(tmp_path: Any) -> None:
    (panel,) = panels(Records(rows_of()))
    by = judged(panel)
    assert (by.name, by.better, by.share) == ("perplexity", -1, False)
    states = {s.series.label: s for s in states_of(panel, panel.moments[0])}
    assert [states[name].near for name in ("few", "fewer", "middle")] == [True, False, False]
    assert states["fewer"].loss == pytest.approx(100 * 10 / 50.05)
    best = chosen([states["fewer"], states["middle"]])
    assert best is not None
    assert best.series.label == "middle"
    of = asked(panel)
    assert of is not None
    assert "few" in spoken_of(of)
    told = " ".join([spoken_of(of), *summary(panel)])
    for answer in answers(of):
        told += " ".join([answer.heading, *answer.sentences])
    assert "Is its perplexity as good?" in told
    assert "ccura" not in told
    write_report(Records(rows_of()), tmp_path, "a language model")
    page = (tmp_path / "report.html").read_text()
    assert "Perplexity against size and training cost" in page
    assert "Accuracy" not in page


def test_a_section_token_by_token() -> None:
    """Flips and KL against the mean bits of a weight, and every figure in the table; nothing of it is left over."""
    rows = rows_of()
    for series, order, bits, flipped in (
        ("dense", 0, 32.0, 0.0),
        ("few", 1, 8.0, 1.5),
        ("fewer", 2, 3.0, 40.0),
    ):
        for seed in (0, 1):
            where = {"series": series, "order": order, "seed": seed, "density": 1.0}
            for probe, metric, value, unit in (
                ("structure", "weight_bits", bits, "bits"), ("next_tokens", "flipped", flipped, "%"),
                ("next_tokens", "kl", flipped / 100, "nats"), ("next_tokens", "perplexity", 50.0, "1"),
            ):  # fmt: skip
                rows.append(record(probe=probe, metric=metric, value=value, unit=unit, **where))
    (panel,) = panels(Records(rows))
    found = next_tokens.section(panel, "")
    assert [chart.name for chart in found.charts] == ["flipped_vs_bits", "kl_vs_bits"]
    (table,) = found.tables
    told = {row.label: [c.text for c in row.cells] for row in table.rows if row.label}
    assert "40.0" in told["fewer"]
    assert "1.5" in told["few"]
    assert not [t for t in others.leftover_tables(panel, panel.moments[0]) if "next_tokens" in t.title]
    (plain,) = panels(Records(rows_of()))
    assert next_tokens.section(plain, "").empty


def test_of_shares_all_is_as_it_was() -> None:
    (panel,) = panels(Records(rows_of("top1", "%")))
    assert judged(panel).question == "Is it as accurate?"
    states = {s.series.label: s for s in states_of(panel, panel.moments[0])}
    assert all(s.near for s in states.values())  # more is better, and they have more
    assert [loss(v, "points", 50.0) for v in (-1.0, 2.0)] == [1.0, -2.0]
    assert loss(1.0, "", None, -1) is None


# models of transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_of_transformers_is_measured_alike(kind: str, tmp_path: Any) -> None:
    """Its perplexity is e to transformers' own loss, over each text's tokens; rounded to 2 bits it says other things."""
    transformers = pytest.importorskip("transformers")
    tokenizer = trained(["a red fish", "the blue bird sings", "one of many"] * 4, 300)
    size = tokenizer.size
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        whole = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=False,
        )  # fmt: skip
        whole = transformers.LlamaForCausalLM(config)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    whole.eval().save_pretrained(tmp_path, safe_serialization=True)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json)
    found = load({**DATA, "task": {**DATA["task"], "tokenizer": str(tmp_path)}})  # type: ignore[dict-item]
    bench = Bench(found, 0, "init")
    model = {
        "name": "hf",
        "build": {
            "_target_": "compressbench.models.hf.folder", "folder": str(tmp_path), "form": "@form",
            "inputs": "@inputs", "names": "@names", "vocabulary": "@vocabulary", "length": "@length",
            "tokenizer": "@tokenizer",
        },
    }  # fmt: skip
    state = drawn(model, bench)
    view = View(state, bench, "dense")
    losses, counts = [], []
    test = bench.feed("test")
    for row in range(len(test)):
        ids = [int(test["ids"][[row]].values[0]), *(t for t in test.labels[row].tolist() if t >= 0)]
        with torch.no_grad():
            losses.append(float(whole(torch.tensor([ids]), labels=torch.tensor([ids])).loss))
        counts.append(len(ids) - 1)
    wanted = math.exp(np.average(losses, weights=counts))
    said = values(NextTokens(tokens=3).measure(view, view, bench))
    assert said["perplexity", ""] == pytest.approx(wanted, rel=1e-4)
    if (
        kind == "gpt2"
    ):  # its layers are transformers' own Conv1D, and the only linear one shares the embedding's weight
        with pytest.raises(UserError, match="no convolution or linear layer that can be quantized"):
            Quantize(weights=2, inputs=None).apply(state, bench)
        return
    rounded = View(Quantize(weights=2, inputs=None).apply(state, bench), bench, "rounded")
    assert values(NextTokens(tokens=3).measure(rounded, view, bench))["flipped", ""] > 0
