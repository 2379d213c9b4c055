"""Figures: floors that are none, roundings to 100, answers that are no numbers, chance, hidden losses."""

from __future__ import annotations

import dataclasses
import math
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from cases_report import accuracies, full, record
from compressbench import metrics
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.checkpoint import read_weights
from compressbench.models.lenet import LeNet300100
from compressbench.outputs import Outputs
from compressbench.probes.accuracy import Accuracy
from compressbench.probes.forgetting import Forgetting
from compressbench.probes.loyalty import Loyalty
from compressbench.probes.rescaling import Rescaling
from compressbench.records import Records, read_jsonl
from compressbench.report.findings import summary, warnings
from compressbench.report.numbers import Spread, number, percentage, share, with_spread
from compressbench.report.panels import panels
from compressbench.report.sections.forgetting import forgetting_table
from compressbench.report.terminal import print_tables
from compressbench.state import State
from compressbench.tasks.images.square import _margin
from compressbench.tasks.task import Pieces
from compressbench.views import View
from conftest import Command

SMOKE = ("scale=smoke", "hardware=cpu1", "dataset=digits", "seed=0")
NAN = float("nan")


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u00a0", " ")


# Numbers: nothing is rounded to a 100 or a 0 that it isn't.


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (99.96, "%", "99.96"),
        (99.94, "%", "99.9"),
        (99.9996, "%", "99.9996"),
        (100.0, "%", "100.0"),
        (100.04, "%", "100.04"),
        (0.04, "%", "0.04"),
        (0.0, "%", "0.0"),
        (100 * (1 - 1e-16), "%", "100.0"),
        (1e-13, "points", "0.0"),
        (-0.04, "points", "\N{MINUS SIGN}0.04"),
        (99.96, "points", "100.0"),
        (0.0003, "nats", "0.0003"),
        (0.004, "x", "0.004"),
    ],
)
def test_nothing_is_rounded_to_an_end_that_it_is_not(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_shares_and_spreads_keep_off_their_ends() -> None:
    assert [percentage(x) for x in (1.0, 0.99999987, 0.99999, 0.9996, 0.999, 0.0)] == [
        "100",
        "100",
        "99.999",
        "99.96",
        "99.9",
        "0.0",
    ]
    assert [share(x) for x in (62.3, 99.6, 100.0, 0.3, 0.0)] == ["62", "99.6", "100", "0.3", "0"]
    assert with_spread(Spread(90.0, 0.03, 3), "%") == ("90.00", "±0.03")
    assert with_spread(Spread(90.0, 0.0, 3), "%") == ("90.0", "±0.0")


def test_a_loyalty_of_all_but_a_few_is_not_100_in_any_table() -> None:
    rows = [
        r if r.metric != "label_loyalty" else dataclasses.replace(r, value=99.96)
        for r in full(seeds=1, moments=("final",))
    ]
    out = StringIO()
    print_tables(Records(rows), Console(file=out, width=120))
    assert "99.96" in out.getvalue()
    assert "100.0" not in out.getvalue()


# Checkpoints: what is no number is refused, zeros count, a floor that is the same state is none.


def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return dict(LeNet300100(shape=[1, 8, 8], classes=10).state_dict())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    tensors = weights()
    name = next(n for n, t in tensors.items() if t.ndim == 2)
    tensors[name][0, 1] = NAN
    path = tmp_path / f"w.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    with pytest.raises(
        UserError, match=rf"{name} holds 1 of {tensors[name].numel()} values that are no numbers"
    ):
        read_weights(path)
    tensors[name][0, 1] = float("inf")  # as masks of attention are
    save_file(tensors, tmp_path / "inf.safetensors")
    assert read_weights(tmp_path / "inf.safetensors")[name].isinf().sum() == 1


def one_shot(command: Command, *args: str) -> tuple[str, Records]:
    done = command(
        "run", *SMOKE, "recipe=one_shot", "model=lenet_300_100", "recipe.fractions=[0.5]", "recipe.length=5it",
        "recipe.finetune=1it", "evaluation=quick", *args,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = max(Path("outputs/runs").iterdir()) / "records.jsonl"
    return done.stdout + done.stderr, read_jsonl(path)


def test_zeros_of_a_checkpoint_count_and_its_floor_is_none(command: Command, tmp_path: Path) -> None:
    tensors = weights()
    for tensor in tensors.values():
        if tensor.ndim == 2:
            flat = tensor.view(-1)
            flat[torch.arange(len(flat)) % 5 != 0] = 0  # 4 of 5 go
    left = sum(int((t != 0).sum()) for t in tensors.values() if t.ndim == 2)
    whole = sum(t.numel() for t in tensors.values() if t.ndim == 2)
    save_file(tensors, tmp_path / "sparse.safetensors")
    for _ in range(2):  # a warm run says the same
        said, rows = one_shot(command, "recipe.stages.dense.checkpoint=sparse.safetensors")
        assert {r.density for r in rows.where(series="dense")} == {left / whole}
        (value,) = rows.where(series="dense", probe="structure", metric="density").values()
        assert value == pytest.approx(100 * left / whole)
        (floor,) = rows.where(series="floor")
        assert floor.value is None
        assert "dense of seed 1 is the very state of seed 0" in floor.note
        words = " ".join(said.split())
        assert words.count("is the very state of seed 0") == 2, "as it happens, and under the tables"
        assert "100.0 100.0 floor" not in words
        assert "floor │" not in words
    text = max(Path("outputs/runs").glob("*/report.html")).read_text(encoding="utf-8")
    assert "is the very state of seed 0" in text
    assert "the loyalty that retraining alone leaves" not in text


def test_a_floor_of_another_state_stays(command: Command) -> None:
    said, rows = one_shot(command)
    assert rows.where(series="floor", metric="label_loyalty").values()[0] is not None
    assert "very state" not in said


# Answers that are no numbers.


class Broken(View):
    """A view that answers what is given to it."""

    def __init__(self, state: State, bench: Bench, given: Tensor) -> None:
        super().__init__(state, bench)
        self.__dict__["_whole"] = Pieces(given, torch.arange(len(given)), self.labels)


@pytest.fixture
def answers(place: Bench) -> Tensor:
    count = len(place.feed("test").labels)
    return torch.randn(count, 10, generator=torch.Generator().manual_seed(0)).log_softmax(1)


def measured(probe, subject: View, reference: View, place: Bench) -> dict[tuple[str, str], object]:
    return {(m.name, m.group): m for m in probe.measure(subject, reference, place)}


def test_some_answers_that_are_no_numbers_are_wrong_and_said(
    place: Bench, dense: State, answers: Tensor
) -> None:
    lost = answers.clone()
    lost[:7] = NAN
    labels = place.feed("test").labels
    n = len(labels)
    subject, reference = Broken(dense, place, lost), Broken(dense, place, answers)
    found = measured(Accuracy(), subject, reference, place)
    right = sum(int(answers[k].argmax() == labels[k]) for k in range(7, n))
    assert found["top1", ""].value == pytest.approx(100 * right / n)
    assert f"7 of {n} answers are no numbers (NaN) and count as wrong" in found["top1", ""].note
    assert found["nll", ""].value is None
    assert f"7 of {n} answers are no numbers (NaN)" in found["nll", ""].note
    loyal = measured(Loyalty(), subject, reference, place)
    assert loyal["label_loyalty", ""].value == pytest.approx(100 * (n - 7) / n)
    # identical but for 7, which are as far as disjoint ones: scipy's distance of (1, 0) and (0, 1)
    far = jensenshannon([1, 0], [0, 1])
    assert loyal["probability_loyalty", ""].value == pytest.approx(100 * (n - 7 * far) / n)
    assert loyal["probability_loyalty_base2", ""].value == pytest.approx(100 * (n - 7) / n)
    itself = measured(Loyalty(), subject, subject, place)
    assert itself["label_loyalty", ""].value == pytest.approx(100 * (n - 7) / n), "NaN agrees with nothing"
    gone = measured(Forgetting(), subject, reference, place)["forgotten", ""]
    assert gone.value == pytest.approx(100 * sum(int(answers[k].argmax() == labels[k]) for k in range(7)) / n)
    assert "7 of" in gone.note
    other = measured(Loyalty(), reference, subject, place)["label_loyalty", ""]
    assert f"of the reference’s, 7 of {n} answers" in other.note


def test_no_figures_of_a_net_that_answers_nothing(place: Bench, dense: State, answers: Tensor) -> None:
    subject, reference = Broken(dense, place, answers * NAN), Broken(dense, place, answers)
    for probe in (Accuracy(), Loyalty(), Forgetting()):
        for metric in measured(probe, subject, reference, place).values():
            if metric.unit != "examples":
                assert metric.value is None
                assert metric.note == f"no figure: all {len(answers)} answers are no numbers (NaN)"
    assert all(m.value is None for m in measured(Loyalty(), reference, subject, place).values())


def test_no_class_is_named_where_a_score_is_no_number(place: Bench) -> None:
    scores = torch.tensor([[0.1, NAN, 0.3], [0.5, 0.5, 0.1], [NAN, NAN, NAN]])
    assert metrics.named(scores).tolist() == [-1, 0, -1]
    assert place.task.answers(Outputs(scores)).tolist() == [-1, 0, -1]
    _, fallen = _margin(scores, torch.tensor([1, 0, 0]))
    assert fallen.tolist() == [True, False, True]


def test_answers_that_are_no_numbers_are_said_in_the_warnings() -> None:
    note = "7 of 500 answers are no numbers (NaN) and count as wrong"
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}), *accuracies("ticket", 1, 0.5, {0: 80.0}, note=note)]
    (line,) = [w for w in warnings(panels(Records(rows))) if "NaN" in w]
    assert line.startswith("ticket: some answers are no numbers (NaN); they count as wrong")


# Dense nets at chance.


def weak(dense: float, majority: float | None, seeds: int = 2, n: int = 500) -> Records:
    """Two series beside a dense net of some accuracy."""
    rows = []
    for seed in range(seeds):
        for series, order, loss in (("dense", 0, 0.0), ("ticket", 1, 0.2), ("ticket", 2, 0.4)):
            here = {"series": series, "order": order, "density": 0.5**order, "seed": seed, "n": n}
            rows.append(record(**here, value=dense - loss))
            if majority is not None:
                rows.append(record(**here, metric="majority_top1", value=majority, basis="computed"))
            else:
                rows += [
                    record(**here, probe="forgetting", metric="recall", group=g, value=10.0)
                    for g in "abcdefghij"
                ]
    return Records(rows)


@pytest.mark.parametrize("majority", [10.0, None])
def test_a_dense_net_at_chance_is_said_and_nothing_is_praised(majority: float | None) -> None:
    # two seeds of 500: standard error of 10 % is 100 sqrt(0.1 x 0.9 / 1000) = 0.949; two are 1.897
    for value, chance in ((11.8, True), (12.0, False)):
        found = panels(weak(value, majority))
        said = [w for w in warnings(found) if "no better than" in w]
        text = plain(" ".join(summary(found[0])))
        assert bool(said) is chance, value
        assert ("no more than one point below dense" in text) is not chance
        assert ("no better than naming the commonest class each time (10.0 %)" in text) is chance
    out = StringIO()
    print_tables(weak(11.8, majority), Console(file=out, width=200))
    assert (
        "dense: Top-1 11.8 % is no better than naming the commonest class each time (10.0 %)"
        in out.getvalue()
    )


def test_the_commonest_class_is_that_of_the_test_split(place: Bench, dense: State, answers: Tensor) -> None:
    labels = place.feed("test").labels.tolist()
    most = max(labels.count(c) for c in set(labels))
    view = Broken(dense, place, answers)
    found = measured(Accuracy(), view, view, place)["majority_top1", ""]
    assert found.value == pytest.approx(100 * most / len(labels))


# What another series lost doesn't hide behind the first.


def losses(first: dict[str, float], other: dict[str, float], more: int = 0) -> Records:
    """Recall changes by class of two series, and of some that lose nothing between them."""
    series = {
        "first": first,
        **{f"between {k}": dict.fromkeys(first, 0.0) for k in range(more)},
        "other": other,
    }
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0})]
    for name, own in series.items():
        rows += accuracies(name, 1, 0.5, {0: 89.0})
        rows += [
            record(series=name, order=1, density=0.5, probe="forgetting", metric="recall_change", group=g, value=v,
                   unit="points")
            for g, v in own.items()
        ]  # fmt: skip
    return Records(rows)


@pytest.mark.parametrize("more", [0, 6])
def test_the_worst_class_is_that_of_any_series(more: int) -> None:
    quiet = {c: -0.1 * k for k, c in enumerate("abcdefg")}
    rows = losses(quiet, {**dict.fromkeys("abcdefg", 0.0), "a": -20.0}, more)
    out = StringIO()
    print_tables(rows, Console(file=out, width=200))
    table = out.getvalue().partition("Worst classes")[2]
    assert "other 50.0 %" in plain(table), "of many series too"
    first = next(line for line in table.splitlines()[1:] if line.strip().startswith("a "))
    assert "\N{MINUS SIGN}20.0" in first
    assert table.index(first) < table.index("\N{MINUS SIGN}0.6"), "the worst class of all stands first"
    (panel,) = panels(rows)
    assert "Most is lost by other at 50.0 %: class “a”, recall −20.0 points" in plain(
        " ".join(summary(panel))
    )
    table, _ = forgetting_table(panel, "final")
    assert table is not None
    assert table.rows[0].label == "a"


def test_what_is_left_out_of_rescaling_says_why(place: Bench, dense: State) -> None:
    class Lost(View):
        """Gives no number for the first five training examples."""

        def log_probs_of(self, split: str, count: int) -> Tensor:
            found = torch.full((count, 10), 0.1).log()
            found[:5] = NAN
            return found

    whole = View(dense, place)
    for one, other in ((Lost(dense, place), whole), (whole, Lost(dense, place))):
        found = measured(Rescaling(examples=50), one, other, place)
        mean = found["rescaling_mean", ""]
        assert mean.n == 45
        assert mean.value is not None
        assert math.isfinite(mean.value)
        assert "5 of 50 examples left out: their answers are no numbers (NaN)" in mean.note
        assert "sure" not in mean.note


def test_a_state_that_answers_nothing_is_not_called_wrong() -> None:
    note = "no figure: all 500 answers are no numbers (NaN)"
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}), *accuracies("ticket", 1, 0.5, {0: None}, note=note)]
    (line,) = [w for w in warnings(panels(Records(rows))) if "NaN" in w]
    assert line == "ticket: no figures of states whose answers all are no numbers (NaN)."
    alone = Records(r for r in rows if r.series == "ticket")
    assert summary(panels(alone)[0])[0].endswith(f"There is no accuracy: {note}.")
