"""Words exchanged for synonyms: the search against models whose answers are known by hand, and the probe on real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.data.synonyms import wordnet
from compressbench.errors import UserError
from compressbench.metrics import named
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.probes.shifted_texts import ShiftedTexts
from compressbench.probes.substitution import Substitution, asker, attacked
from compressbench.state import State
from compressbench.tasks.text.classification import TextClassification
from compressbench.tasks.text.packing import SECOND, TEXT, unpacked
from compressbench.tasks.text.substitution import Ask, Bounds, Found, search, side_by_side
from compressbench.tasks.text.words import STOP_WORDS, candidates, inflected, is_stop, pieces, without
from compressbench.views import View

pytest.importorskip("tokenizers")
WIDE = Bounds(1.0, 50, 1000)
WEIGHTS = {"great": 2.0, "good": 1.0, "bad": -3.0, "awful": -5.0, "film": 0.5, "flick": -2.0}
SYNONYMS = {"great": ("good",), "film": ("movie", "flick"), "the": ("a",)}
ENCODER = {
    "name": "encoder",
    "build": {
        "_target_": "compressbench.models.encoder.TextEncoder",
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "mlp": 16,
        "vocabulary": "@vocabulary",
        "classes": "@classes",
        "length": "@length",
        "segments": "@segments",
    },
}


def of(synonyms: Mapping[str, Sequence[str]]) -> Any:
    return lambda word: synonyms.get(word, ())


class Bag:
    """A bag of words: the logit of class 1 is the sum of weights; keeps what it was asked, call by call."""

    def __init__(self, weights: Mapping[str, float] = WEIGHTS) -> None:
        self.weights = weights
        self.asked: list[list[str]] = []

    def __call__(self, owners: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        logits = np.array([sum(self.weights.get(word, 0.0) for word in text.split()) for text in texts])
        return np.stack([-np.logaddexp(0, logits), -np.logaddexp(0, -logits)], axis=1)


def alone(text: str, label: int, synonyms: Any, bounds: Bounds, ask: Ask) -> Found:
    (found,) = side_by_side([search(text, label, of(synonyms), bounds)], ask)
    return found


# The search ----------------------------------------------------------------------------------------------------------


def test_the_word_that_matters_most_goes_first_and_every_query_is_counted() -> None:
    model = Bag()
    # 2.5; great is worth 2, film 0.5; great -> good leaves 1.5; film -> flick then leaves -1
    found = alone("the great film", 1, SYNONYMS, WIDE, model)
    assert found == Found("the good flick", True, True, 6, 3, (("great", "good"), ("film", "flick")))
    assert model.asked == [
        ["the great film"],
        ["the film", "the great"],
        ["the good film"],
        ["the good movie", "the good flick"],
    ]


def test_of_words_that_flip_the_label_the_likeliest_synonym_is_taken() -> None:
    both = {"great": ("good", "bad", "awful")}
    found = alone("the great film", 1, both, WIDE, Bag())
    assert (found.text, found.queries) == ("the bad film", 6)


def test_a_text_that_was_wrong_is_left_alone() -> None:
    model = Bag()
    assert alone("the great film", 0, SYNONYMS, WIDE, model) == Found("the great film", False, True, 0, 3)
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("share", "text", "queries"),
    [
        (0.4, "the good film", 4),
        (0.66, "the good film", 4),
        (0.67, "the good flick", 6),
        (0.1, "the good film", 4),
    ],
)
def test_no_more_words_than_allowed_are_exchanged_but_one_always(
    share: float, text: str, queries: int
) -> None:
    found = alone("the great film", 1, SYNONYMS, Bounds(share, 50, 1000), Bag())
    assert (found.text, found.queries) == (text, queries)


@pytest.mark.parametrize(
    ("most", "text", "fallen"),
    [(2, "the great film", False), (3, "the great film", False), (4, "the good film", False),
     (5, "the good movie", False), (6, "the good flick", True)],
)  # fmt: skip
def test_no_more_is_asked_than_allowed(most: int, text: str, fallen: bool) -> None:
    model = Bag({**WEIGHTS, "movie": 0.4})
    found = alone("the great film", 1, SYNONYMS, Bounds(1.0, 50, most), model)
    assert (found.text, found.fallen, found.queries) == (text, fallen, most)
    assert sum(map(len, model.asked)) == most


def test_only_so_many_candidates_are_tried_and_none_that_helps_the_true_class() -> None:
    found = alone(
        "the great film", 1, {"film": ("movie", "flick")}, Bounds(1.0, 1, 1000), Bag({"great": 2.0})
    )
    assert found == Found("the great film", True, False, 4, 3), (
        "movie is as good as film, and flick isn't tried"
    )


def test_importance_adds_what_another_class_gains_where_it_is_named() -> None:
    """By hand: without x class 0 loses 0.25 and class 1 is named, which gains 0.3: 0.55; without y it loses 0.5 and
    stays named, since the rest is shared out: 0.5."""
    said = {
        "x y": (0.6, 0.2, 0.1, 0.1),
        "y": (0.35, 0.5, 0.1, 0.05),
        "x": (0.26, 0.25, 0.245, 0.245),
    }
    asked = []

    def ask(owners: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.log([said.get(text, (0.6, 0.2, 0.1, 0.1)) for text in texts])

    alone("x y", 0, {"x": ("p",), "y": ("q",)}, WIDE, ask)
    assert asked == ["x y", "y", "x", "p y", "x q"]


def test_an_answer_that_is_no_number_is_wrong() -> None:
    def ask(owners: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        return np.array([[math.nan, -3.0] if "flick" in text else [-0.1, -3.0] for text in texts])

    assert alone("film", 0, SYNONYMS, WIDE, ask).fallen
    assert not alone("flick", 0, SYNONYMS, WIDE, ask).right


def hashed(owners: Sequence[int], texts: Sequence[str]) -> np.ndarray:
    """A model of three classes without any sense, the same for the same text."""
    raw = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:12], np.uint32) for text in texts]
    logits = np.array(raw, np.float64) / 2**32
    logits[:, 0] += 0.9
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


SENTENCES = (
    "the movie , however , is a very good one",
    "Large dogs watched the small houses while walking",
    "it 's not bad ; it is terrible , truly terrible",
    "A slow story about old friends who travel to the city",
    "",
    "the of and",
)


def test_side_by_side_each_finds_what_it_finds_alone() -> None:
    texts = [f"{one} {other}" for one in SENTENCES for other in SENTENCES]
    bounds = Bounds(0.5, 6, 60)

    def begun() -> list[Any]:
        return [search(text, 0, lambda w: candidates(w, wordnet()), bounds) for text in texts]

    calls, sizes = [], []

    def counting(owners: Sequence[int], asked: Sequence[str]) -> np.ndarray:
        calls.append(len(asked))
        assert len(owners) == len(asked)
        return hashed(owners, asked)

    together = side_by_side(begun(), counting)
    for one in begun():
        sizes += side_by_side([one], hashed)
    assert together == sizes
    assert sum(calls) == sum(max(1, found.queries) for found in together)
    assert len(calls) < sum(calls) / 5, "many searches, one question"
    assert len({found.fallen for found in together}) == 2


def test_what_is_found_keeps_to_the_rules() -> None:
    texts = [f"{one} {other}" for one in SENTENCES for other in SENTENCES]
    bounds = Bounds(0.3, 6, 50)
    searches = [search(text, 0, lambda w: candidates(w, wordnet()), bounds) for text in texts]
    changed = 0
    for text, found in zip(texts, side_by_side(searches, hashed), strict=True):
        before, after = pieces(text), pieces(found.text)
        assert before[::2] == after[::2] or len(before) != len(after), "what is between words stays"
        moved = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
        assert sorted(moved) == sorted(found.exchanged), "no word is exchanged twice"
        assert len(moved) <= max(1, int(0.3 * (len(before) // 2)))
        assert not {b.lower() for b, _ in moved} & STOP_WORDS
        assert found.queries <= 50
        changed += len(moved)
    assert changed > 10


# Words ---------------------------------------------------------------------------------------------------------------


def test_wordnets_list_is_the_published_one() -> None:
    found = wordnet()
    assert sum(len(parts) for parts in found.values()) == 52_803
    assert sum(len(others) for parts in found.values() for others in parts.values()) == 149_525
    assert "film" in found["movie"]["n"]


def test_short_forms_of_stop_words_are_stop_words() -> None:
    short = ["don't", "Isn't", "it's", "IT’S", "we've", "n't", "the"]
    assert [word for word in short if not is_stop(word)] == []
    assert [word for word in ("film's", "film", "o'clock", "well-made", "rock'n'roll") if is_stop(word)] == []
    known = {"don't": {"n": ("taboo",)}, "film": {"n": ("it's", "movie")}}
    assert candidates("Don't", known) == []
    assert candidates("film", known) == ["movie"]
    ask = Bag({"don't": 5.0, "great": 1.0})
    found = alone("don't film great", 1, {"don't": ("do",), "great": ("good",)}, WIDE, ask)
    assert ask.asked[1] == ["don't great", "don't film"]
    assert [word for word, _ in found.exchanged] == ["great"]


def test_pieces_and_what_is_left_without_one() -> None:
    parts = pieces("It's a well-made film, n't 3 über")
    assert parts[1::2] == ["It's", "a", "well-made", "film", "n't", "über"]
    assert "".join(parts) == "It's a well-made film, n't 3 über"
    assert pieces("") == [""]
    parts = pieces("the great film.")
    assert [without(parts, place) for place in (1, 3, 5)] == ["great film.", "the film.", "the great ."]


@pytest.mark.parametrize(
    ("word", "ending", "wanted"),
    [
        ("film", "s", "films"), ("box", "s", "boxes"), ("carry", "s", "carries"), ("play", "s", "plays"),
        ("woman", "s", None), ("child", "s", None), ("stop", "ed", "stopped"), ("carry", "ed", "carried"),
        ("bake", "ed", "baked"), ("visit", "ed", "visited"), ("prefer", "ed", "preferred"), ("go", "ed", None),
        ("make", "ing", "making"), ("die", "ing", "dying"), ("see", "ing", "seeing"), ("begin", "ing", "beginning"),
        ("show", "ing", "showing"), ("fix", "ed", "fixed"),
    ],
)  # fmt: skip
def test_regular_inflection(word: str, ending: str, wanted: str | None) -> None:
    assert inflected(word, ending) == wanted


def test_candidates_are_inflected_and_written_as_the_word_is() -> None:
    own = {
        "film": {"n": ("movie", "child"), "v": ("shoot", "record")},
        "walk": {"v": ("stroll",), "n": ("promenade",)},
        "big": {"a": ("large", "of")},
    }
    assert candidates("film", own) == ["movie", "child", "shoot", "record"]
    assert candidates("Films", own) == ["Movies", "Shoots", "Records"], "no childs"
    assert candidates("FILM", own)[0] == "MOVIE"
    assert candidates("walked", own) == ["strolled"], "a noun has no -ed"
    assert candidates("walking", own) == ["strolling"]
    assert candidates("big", own) == ["large"], "a stop word stands for nothing"
    assert candidates("the", {"the": {"n": ("thing",)}}) == []
    assert candidates("unknown", own) == []


# The probe -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Premises and hypotheses of three classes, 24 for training and 12 for the test."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = [
        f"{SENTENCES[i % 2].split()[0]}\t{SENTENCES[(i * 7 + 1) % 4]} number {i}\t{'nyc'[i % 3]}"
        for i in range(36)
    ]
    for name, part in (("train", lines[:24]), ("test", lines[24:])):
        (folder / f"{name}.tsv").write_text("\n".join(["text\tsecond\tlabel", *part, ""]), encoding="utf-8")
    config = {
        "name": "pairs",
        "read": {
            "_target_": "compressbench.data.texts.text_file",
            "train": str(folder / "train.tsv"),
            "test": str(folder / "test.tsv"),
            "second": "second",
        },
        "task": {
            "_target_": "compressbench.tasks.text.classification.text_classification",
            "length": 40,
            "vocabulary": 330,
        },
        "validation": 0.25,
    }
    return Bench(load(config), seed=0, name="dense")


def sharpened(bench: Bench, name: str) -> State:
    """A drawn encoder whose tokens count for more than their places, so that its answers differ from text to text."""
    state = drawn(ENCODER, dataclasses.replace(bench, name=name))
    weights = {n: t * 4 if n == "tokens.weight" else t for n, t in state.weights.items()}
    return dataclasses.replace(state, tensors={**state.tensors, "weights": weights}, key=name)


@pytest.fixture(scope="module")
def views(pairs: Bench) -> tuple[View, View]:
    return View(sharpened(pairs, "b"), pairs), View(sharpened(pairs, "other"), pairs)


def said_of(view: View, premises: Sequence[str], texts: Sequence[str]) -> list[int]:
    """What a state's plain module says of pairs, one after the other."""
    from compressbench.data.texts import examples

    task, module, out = view.bench.task, module_of(view.state), []
    for premise, text in zip(premises, texts, strict=True):
        made = task.prepared(examples([premise], np.zeros(1, np.int64), [text]))
        with torch.inference_mode():
            out += named(module(*task.encode(made.to("cpu")))).tolist()
    return out


def test_batched_is_one_by_one_and_the_premise_stays(
    pairs: Bench, views: tuple[View, View], monkeypatch: pytest.MonkeyPatch
) -> None:
    view, settings = views[0], Substitution(share=0.3, candidates=2)
    test = pairs.dataset.split("test")
    premises, seen = unpacked(test[TEXT]), []
    whole = TextClassification.prepared

    def watched(task: TextClassification, examples: Any) -> Any:
        seen.extend(zip(unpacked(examples[TEXT]), unpacked(examples[SECOND]), strict=True))
        return whole(task, examples)

    monkeypatch.setattr(TextClassification, "prepared", watched)
    rows = np.arange(12)
    together = attacked(view, rows, settings)
    assert {premise for premise, _ in seen} <= set(premises)
    last = [f" {text.split()[-1]}" for text in unpacked(test[SECOND])]
    for premise, text in seen:  # a hypothesis ends in the number of its example
        own = [p for p, end in zip(premises, last, strict=True) if text.endswith(end)]
        assert own == [premise]
    assert together == [attacked(view, rows[i : i + 1], settings)[0] for i in rows]
    assert together == attacked(View(view.state, pairs), rows, settings), "nothing is random"


def test_the_probe_says_what_the_state_says_of_what_was_found(pairs: Bench, views: tuple[View, View]) -> None:
    reference, subject = views
    settings = Substitution(examples=None, share=0.3, candidates=2, shown=1)
    found = {(m.name, m.group): m for m in settings.measure(subject, reference, pairs)}
    test = pairs.dataset.split("test")
    rows = np.arange(12)
    own, theirs = attacked(subject, rows, settings), attacked(reference, rows, settings)
    labels, premises = test.labels.tolist(), unpacked(test[TEXT])
    clean = [a == b for a, b in zip(said_of(subject, premises, unpacked(test[SECOND])), labels, strict=True)]
    after = [a == b for a, b in zip(said_of(subject, premises, [f.text for f in own]), labels, strict=True)]
    assert [f.right for f in own] == clean
    assert [not f.fallen for f in own] == after
    assert 0 < sum(after) < sum(clean), "the attack finds some and not all"
    assert found["substitution_clean_accuracy", ""].value == pytest.approx(100 * sum(clean) / 12)
    aa = found["substitution_accuracy", ""]
    assert (aa.value, aa.n) == (pytest.approx(100 * sum(after) / 12), 12)
    low, high = (found[f"substitution_accuracy_{end}", ""].value for end in ("low", "high"))
    assert low is not None
    assert high is not None
    p, z = sum(after) / 12, 1.959964
    middle, half = p + z * z / 24, z * math.sqrt(p * (1 - p) / 12 + z * z / 576)
    assert (low, high) == pytest.approx(
        (100 * (middle - half) / (1 + z * z / 12), 100 * (middle + half) / (1 + z * z / 12))
    )
    queries = [f.queries for f in own if f.right]
    assert found["substitution_queries", ""].value == pytest.approx(sum(queries) / len(queries))
    assert found["substitution_queries", ""].n == len(queries)
    bad = [i for i, f in enumerate(theirs) if f.right and f.fallen]
    assert len(bad) < sum(f.right for f in theirs), "some stand"
    moved = said_of(subject, [premises[i] for i in bad], [theirs[i].text for i in bad])
    hits = sum(a == labels[i] for a, i in zip(moved, bad, strict=True))
    assert found["substitution_transfer_accuracy", ""].value == pytest.approx(100 * hits / len(bad))
    shown = [m for (name, _), m in found.items() if name == "substitution_example"]
    assert len(shown) == 1
    assert sum(f.right and f.fallen for f in own) > 1
    assert all(" → " in m.note for m in shown)
    alike = {m.name: m for m in settings.measure(reference, reference, pairs)}
    assert alike["substitution_transfer_accuracy"].value == 0, "what was found against it fools it"


def test_more_texts_where_the_interval_is_wide(pairs: Bench, views: tuple[View, View]) -> None:
    def attacked_by(**settings: Any) -> int:
        made = Substitution(share=1.0, candidates=4, examples=4, **settings).measure(
            views[1], views[0], pairs
        )
        return next(m.n for m in made if m.name == "substitution_accuracy")

    assert attacked_by() == 4
    assert attacked_by(width=5.0) == 12
    assert attacked_by(width=5.0, most=8) == 8
    assert attacked_by(width=100.0) == 4


def test_batches_are_put_back_in_order(pairs: Bench, views: tuple[View, View]) -> None:
    test = pairs.dataset.split("test")
    texts = ["short", "a much longer text about old friends in the city", "film"] * 30
    owners = [i % 12 for i in range(90)]
    said = asker(views[0], test)(owners, texts)
    premises = unpacked(test[TEXT])
    alone = said_of(views[0], [premises[i] for i in owners], texts)
    assert said.argmax(axis=1).tolist() == alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share is 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"examples": 0}, "examples is 0"),
        ({"queries": 1}, "queries is 1, must be at least 2"),
        ({"candidates": None}, "candidates is None"),
        ({"width": 0}, "width is 0"),
    ],
)
def test_substitution_refuses(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Substitution(**settings)


def test_pictures_are_refused_in_one_line_or_passed_over(bench: Bench) -> None:
    from conftest import MLP

    view = View(drawn(MLP, bench), bench)
    found = list(Substitution().measure(view, view, bench))
    assert [(m.name, m.value) for m in found] == [
        ("substitution_accuracy", None),
        ("substitution_queries", None),
    ]
    assert all("these examples are none" in m.note for m in found)
    assert Substitution().suits(bench.dataset)
    assert not Substitution(only_texts=True).suits(bench.dataset)


def test_shifted_texts_are_measured_and_refused(
    pairs: Bench, views: tuple[View, View], tmp_path: Path, bench: Bench
) -> None:
    path = tmp_path / "other.tsv"
    premises, texts = (
        ["a red fish", "old friends", "the city", "x"],
        ["a fish", "friends", "a slow story", "y"],
    )
    rows = zip(premises, texts, ["n", "0", "y", "-"], strict=True)
    path.write_text("p\th\tl\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    probe = ShiftedTexts(str(path), "p", "h", "l")
    found = {m.name: m for m in probe.measure(views[1], views[0], pairs)}
    own, other = (said_of(view, premises[:3], texts[:3]) for view in (views[1], views[0]))
    classes = pairs.task.classes
    labels = [classes.index("n"), 0, classes.index("y")]
    assert probe._read(pairs.dataset)[0].labels.tolist() == labels
    right = sum(a == b for a, b in zip(own, labels, strict=True))
    assert (found["shifted_top1"].value, found["shifted_top1"].n) == (pytest.approx(100 * right / 3), 3)
    agreed = sum(a == b for a, b in zip(own, other, strict=True))
    assert found["shifted_label_loyalty"].value == pytest.approx(100 * agreed / 3)
    with pytest.raises(UserError, match="pairs: second names the other column"):
        ShiftedTexts(str(path), "p", None, "l").check(pairs.dataset)
    with pytest.raises(UserError, match="label 'a fish' is none of the classes"):
        ShiftedTexts(str(path), "p", "h", "h").check(pairs.dataset)
    with pytest.raises(UserError, match="is a table of texts, and digits is none of texts"):
        ShiftedTexts(str(path), "p", "h", "l").check(bench.dataset)
    assert not ShiftedTexts().suits(pairs.dataset)
