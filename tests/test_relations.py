"""Relations between classes, rescaling of gradients, gains of students of several sizes: measured and reported."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from cases_report import Page, accuracies, record
from compressbench import metrics
from compressbench.bench import Bench
from compressbench.data.examples import Examples
from compressbench.errors import UserError
from compressbench.models.composite import Ensemble
from compressbench.models.draw import drawn
from compressbench.models.representation import class_means, last_layer, relations, represented
from compressbench.probes.relations import Relations, confusion, entropy, pairs
from compressbench.probes.rescaling import FLAT, Rescaling, ends, missing, rescaling, unsure
from compressbench.records import Metric, Record, Records
from compressbench.report import drawing
from compressbench.report.page import write_report
from compressbench.report.panels import Panel, panels
from compressbench.report.sections.differences import difference_tables
from compressbench.report.sections.methods import lecture_table
from compressbench.report.sections.others import leftover_tables
from compressbench.report.sections.relations import class_relations, matrices
from compressbench.report.students import apart, branch, families, gain_tables, gain_vs_parameters
from compressbench.state import State
from compressbench.tasks.images.classification import Classification
from compressbench.training.distillation import softened
from compressbench.views import View
from conftest import MLP
from tiny import TINY

SIZES = {"linear": 7_850, "mlp12": 9_550, "mlp64": 50_890, "mlp256": 203_530}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_name(found: list[Metric]) -> dict[str, Metric]:
    return {f"{m.name} {m.group}".strip(): m for m in found}


# correlations


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_scipy_s(seed: int) -> None:
    x, y = torch.randn(40, generator=generator(seed)), torch.randint(5, (40,), generator=generator(seed + 9))
    y = y.float() + x.round()  # with ties
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x.double(), y.double())[0])
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert metrics.ranks(y).tolist() == stats.rankdata(y).tolist()


def test_a_constant_or_a_single_value_has_no_correlation() -> None:
    x = torch.arange(4.0)
    assert metrics.pearson(x, x) == 1
    assert metrics.spearman(x, -(x**3)) == -1
    for one, other in ((x, torch.full((4,), 0.1)), (x[:1], x[:1]), (x[:0], x[:0])):
        assert math.isnan(metrics.pearson(one, other))
        assert math.isnan(metrics.spearman(one, other))


# rescaling


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_factor_is_the_ratio_of_autograd_s_gradients(temperature: float, share: float) -> None:
    n, classes = 12, 7
    student = 3 * torch.randn(n, classes, generator=generator(1), dtype=torch.float64)
    teacher = 3 * torch.randn(n, classes, generator=generator(2), dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator(3))
    z = student.clone().requires_grad_()

    def by_true_logit(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(n * loss, z)
        return gradient.gather(1, labels[:, None]).squeeze(1)

    plain = by_true_logit(F.cross_entropy(z, labels))
    both = by_true_logit((1 - share) * F.cross_entropy(z, labels) + share * softened(z, teacher, temperature))
    expected = both / plain
    for own, other in ((student, teacher), (student.log_softmax(1), teacher.log_softmax(1))):
        found = rescaling(own, other, labels, temperature, share)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_at_temperature_one_a_teacher_of_hard_labels_rescales_nothing() -> None:
    student = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    teacher = 1e3 * F.one_hot(labels).double()
    torch.testing.assert_close(rescaling(student, teacher, labels, 1.0, 0.9), torch.ones(5).double())


def test_a_sure_student_and_an_example_without_label_are_left_out() -> None:
    logits = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0], [0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, -1])
    assert missing(logits, labels.clamp(min=0)).tolist() == pytest.approx([0.5, math.exp(-30), 1.0, 0.5])
    assert unsure(logits, labels).tolist() == [True, False, True, False]


def test_the_ends_are_the_quarters_by_the_teacher_s_belief() -> None:
    believed, factor = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.3, 0.4]), torch.arange(8.0)
    hard, easy = ends(factor, believed)
    assert (hard.tolist(), easy.tolist()) == ([1, 4], [5, 0])
    assert [len(x) for x in ends(factor[:2], believed[:2])] == [1, 1]
    assert [len(x) for x in ends(factor[:0], believed[:0])] == [0, 0]


class Told:
    """A view whose answers are given."""

    unanswered = 0

    def __init__(self, logits: Tensor, labels: Tensor, bench: Bench) -> None:
        self.state, self.labels, self.bench = object(), labels, bench
        self.log_probs = logits.log_softmax(dim=1)

    def log_probs_of(self, split: str, limit: int) -> Tensor:
        return self.log_probs[:limit]


def told(bench: Bench, labels: Tensor, *logits: Tensor) -> tuple[Bench, list[Told]]:
    """A bench whose training split has these labels, and views that answer so."""
    feed = Examples(
        {"images": torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)}, labels, torch.arange(len(labels))
    )
    task = Classification(tuple("abcdefgh"[: logits[0].shape[1]]), (0.5,), (0.5,))
    data = dataclasses.replace(bench.dataset, task=task)
    bench = dataclasses.replace(bench, dataset=data, feeds={"train": feed, "test": feed})
    return bench, [Told(x, labels, bench) for x in logits]


def test_rescaling_of_given_answers(place: Bench) -> None:
    n = 40
    student, teacher = (torch.randn(n, 4, generator=generator(k)) for k in (1, 2))
    labels = torch.arange(n) % 4
    student[3, 3], labels[7] = 40.0, -1
    bench, (own, other) = told(place, labels, student, teacher)
    found = by_name(list(Rescaling(temperature=2, share=0.5, examples=30).measure(own, other, bench)))
    kept = [k for k in range(30) if k not in (3, 7)]
    factor = rescaling(student[kept].double(), teacher[kept].double(), labels[kept], 2, 0.5)
    believed = (teacher[kept].double() / 2).softmax(1).gather(1, labels[kept][:, None]).squeeze(1)
    assert found["rescaling_mean"].value == pytest.approx(float(factor.mean()), rel=1e-5)
    assert found["rescaling_median"].value == pytest.approx(float(factor.quantile(0.5)), rel=1e-5)
    order = believed.argsort()
    assert found["rescaling_hard"].value == pytest.approx(float(factor[order[:7]].median()), rel=1e-5)
    assert found["rescaling_easy"].value == pytest.approx(float(factor[order[-7:]].median()), rel=1e-5)
    rank = stats.spearmanr(factor, believed)[0]
    assert found["rescaling_rank_correlation"].value == pytest.approx(rank)
    assert {m.n for m in found.values()} == {28, 7}
    assert all(m.unit == "1" and m.basis == "measured" for m in found.values())
    assert all(m.note.startswith("2 of 30 examples left out") for m in found.values())


def test_the_teacher_itself_is_rescaled_by_the_labels_share_alone(place: Bench, dense: State) -> None:
    view = View(dense, place)
    found = by_name(list(Rescaling(examples=50).measure(view, view, place)))
    for name in ("mean", "median", "hard", "easy"):
        metric = found[f"rescaling_{name}"]
        assert metric.value == pytest.approx(0.1)
        assert metric.note == "the teacher itself"
    assert found["rescaling_rank_correlation"].value is None  # all factors are equal
    assert found["rescaling_rank_correlation"].note == f"the teacher itself; {FLAT}"


def test_nothing_is_left_of_a_student_that_is_sure_of_everything(place: Bench) -> None:
    labels = torch.arange(8) % 4
    sure = 100.0 * F.one_hot(labels, 4)
    bench, (own, other) = told(place, labels, sure, sure)
    found = list(Rescaling().measure(own, other, bench))
    assert len(found) == 5
    assert all(m.value is None and m.n == 0 and m.note.endswith("none is left") for m in found)


@pytest.mark.parametrize(
    ("probe", "setting", "words"),
    [
        (Rescaling, {"temperature": 0}, "temperature: 0 is not a number above 0"),
        (Rescaling, {"temperature": -1.0}, "temperature: -1.0 is not a number above 0"),
        (Rescaling, {"share": 1.1}, r"share: 1.1 is not in \[0, 1\]"),
        (Rescaling, {"share": math.nan}, r"share: nan is not in \[0, 1\]"),
        (Rescaling, {"examples": 0}, "examples: 0 is less than 1"),
        (Relations, {"temperature": 0.0}, "temperature: 0.0 is not a number above 0"),
        (Relations, {"classes_shown": 0}, "classes_shown: 0 is less than 1"),
    ],
)
def test_settings_out_of_range_are_refused(probe: Callable, setting: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        probe(**setting)


# relations


class Planted(nn.Module):
    """Reads its features off the first row of the image, and classifies them by a given matrix."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Linear(width, classes, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[:, 0, 0, : self.width])


def planted(features: Tensor) -> Tensor:
    """(n, 1, 1, d) images that ``Planted`` reads the features off."""
    return features[:, None, None, :]


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_one_hot_features_are_a_simplex(k: int) -> None:
    labels = torch.arange(3 * k) % k
    batches = [((planted(F.one_hot(labels, k).float()),), labels)]
    found = class_means(Planted(k, k), batches, k)
    assert found.layer == "fc"
    assert found.counts.tolist() == [3] * k
    torch.testing.assert_close(found.means, torch.eye(k).double())
    expected = torch.full((k, k), -1 / (k - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(relations(found.means), expected)


def test_relations_ignore_shift_scale_and_rotation_of_the_features_but_not_which_class_is_which() -> None:
    means = torch.randn(6, 9, generator=generator(), dtype=torch.float64)
    base = relations(means)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=generator(1), dtype=torch.float64))[0]
    permuted = means[:, torch.randperm(9, generator=generator(2))]
    for other in (means + 5, 3 * means, means @ turn, permuted):
        torch.testing.assert_close(relations(other), base)
    assert torch.equal(base, base.T)
    torch.testing.assert_close(base.diagonal(), torch.ones(6).double())
    assert metrics.pearson(*pairs(relations(means[[1, 2, 3, 4, 5, 0]]), base)) < 0.9


def test_a_class_at_the_mean_of_all_is_in_no_direction() -> None:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64) + 7
    found = relations(means)
    assert found[2].isnan().all()
    assert found[:2, :2].tolist() == [[1, -1], [-1, 1]]
    assert relations(torch.full((3, 4), 0.3, dtype=torch.float64)).isnan().all()
    assert len(pairs(found, found)[0]) == 2


def test_means_are_over_batches_and_leave_out_what_has_no_label() -> None:
    features = torch.randn(10, 4, generator=generator())
    labels = torch.tensor([0, 1, 1, 0, -1, 1, 0, 1, 1, -1])
    parts = [((planted(features[a:b]),), labels[a:b]) for a, b in ((0, 4), (4, 10))]
    found = class_means(Planted(4, 3), parts, 3)
    assert found.counts.tolist() == [3, 5, 0]
    for label in (0, 1):
        torch.testing.assert_close(found.means[label], features[labels == label].double().mean(dim=0))
    assert not found.means[2].any()


class Headless(nn.Module):
    """A net whose only layer with one output a class does not give its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).flip(1)


class Overwriting(Planted):
    """Overwrites its features after it has classified them, as an activation in place may."""

    def forward(self, x: Tensor) -> Tensor:
        features = x[:, 0, 0, : self.width].clone()
        logits = self.fc(features)
        features.zero_()
        return logits


def test_a_layer_that_does_not_give_the_logits_is_not_the_last() -> None:
    x = planted(torch.randn(6, 4, generator=generator()))
    net, other = Planted(4, 3), Planted(4, 3)
    nn.init.normal_(other.fc.weight, generator=generator())
    both = Ensemble([net, other])
    assert last_layer(net, (x,), 3) == "fc"
    assert last_layer(nn.Sequential(net), (x,), 3) == "0.fc"
    assert last_layer(Ensemble([other]), (x,), 3) == "members.0.fc"  # log-softmax adds a constant
    for module in (both, Headless(net), nn.Flatten()):
        assert last_layer(module, (x,), 3) == ""
    torch.testing.assert_close(represented(both, (x,), ""), both(x))
    torch.testing.assert_close(represented(net, (x,), "fc"), x[:, 0, 0])
    torch.testing.assert_close(represented(Overwriting(4, 3), (x,), "fc"), x[:, 0, 0])
    assert not net.fc._forward_hooks
    assert (
        class_means(both, [((x,), torch.arange(6) % 3)], 3).words
        == "means of the logits, which no single layer gives"
    )


def test_a_quantized_net_s_layer_is_found(place: Bench, dense: State) -> None:
    from compressbench.models.build import module_of
    from compressbench.models.quantized import quantize

    module = quantize(module_of(dense), {"fc": {"weight": {"dtype": "bfloat16"}}})
    x = place.task.normalised(place.feed("test")["images"][:4])
    assert last_layer(module, (x,), 10) == "fc"
    assert represented(module, (x,), "fc").shape == (4, module.fc.in_features)


def test_entropy_and_confusion_of_known_answers() -> None:
    even = torch.zeros(4, 8).log_softmax(1)
    assert entropy(even, 4.0) == pytest.approx(math.log(8))
    assert entropy(100.0 * torch.eye(3), 1.0) == pytest.approx(0, abs=1e-12)
    logits, labels = torch.tensor([[4.0, 0.0], [0.0, 4.0], [8.0, 0.0]]), torch.tensor([0, 0, -1])
    found = confusion(logits, labels, 4.0)
    soft = 1 / (1 + math.e)
    assert found.tolist() == [pytest.approx([0.5, 0.5]), [0, 0]]
    assert confusion(logits[:1], labels[:1], 4.0)[0].tolist() == pytest.approx([1 - soft, soft])


def measured(probe: Relations, place: Bench, module: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor):
    """The probe's metrics on given images, labels and modules."""
    classes = y.max().item() + 2  # the last class has no example
    bench, views = told(place, y, *(m(x).detach() for m in (module, teacher)))
    assert len(bench.task.classes) == classes
    for view, own in zip(views, (module, teacher), strict=True):
        view.class_means = class_means(own, [((x,), y)], classes)
    return list(probe.measure(*views, bench))


def test_the_probe_on_planted_features(place: Bench) -> None:
    y = torch.arange(12) % 3
    # a and b are alike, c is not; the fourth class has no example
    x = planted(torch.tensor([[1.0, 0.1, 0, 0], [1.0, -0.1, 0, 0], [-1.0, 0, 0.5, 0]])[y])
    student = Planted(4, 4)
    teacher = Planted(4, 4)
    with torch.no_grad():
        teacher.fc.weight.copy_(torch.tensor([[4.0, 0, 0, 0], [3.0, 0, 0, 0], [-4.0, 0, 1, 0], [0, 0, 0, 0]]))
    found = measured(Relations(), place, student, teacher, x, y)
    one = by_name(found)
    assert len([m for m in found if m.name == "relation"]) == 9
    assert one["relation a · a"].value == 1
    assert (one["relation a · a"].n, one["relation a · b"].n) == (4, 8)
    assert one["relation a · b"].value == one["relation b · a"].value > 0.9
    assert one["relation a · c"].value < -0.9
    assert one["relation_agreement"].value == pytest.approx(1)  # the same features
    assert one["relation_agreement"].note == "means of what fc reads; no test example of d"
    assert one["relation_confusion"].value > 0.7
    assert one["entropy"].unit == "nats"
    assert one["entropy_share"].value == pytest.approx(100 * one["entropy"].value / math.log(4))
    shown = [m for m in measured(Relations(classes_shown=2), place, student, teacher, x, y) if m.group]
    assert [m.group for m in shown] == ["a · a", "a · b", "b · a", "b · b"]
    assert {m.note for m in shown} == {"the first 2 of 4 classes"}


def test_equally_related_classes_have_no_agreement(place: Bench) -> None:
    y = torch.arange(9) % 3
    x = planted(F.one_hot(y, 4).float())
    one = by_name(measured(Relations(), place, Planted(4, 4), Planted(4, 4), x, y))
    assert one["relation a · b"].value == pytest.approx(-0.5)
    assert one["relation_agreement"].value is None
    assert "equally related" in one["relation_agreement"].note


def test_the_reference_agrees_with_itself_and_another_net_less(place: Bench, dense: State) -> None:
    view = View(dense, place)
    itself = by_name(list(Relations().measure(view, view, place)))
    assert itself["relation_agreement"].value == 1.0
    assert itself["relation_agreement"].note == "means of what fc reads"
    other = View(drawn(MLP, dataclasses.replace(place, name="other")), place)
    apart = by_name(list(Relations().measure(other, view, place)))
    assert apart["relation_agreement"].value < 0.999
    assert len([m for m in apart.values() if m.name == "relation"]) == 100
    again = list(Relations().measure(View(dense, place), View(drawn(TINY, place), place), place))
    assert by_name(again)["relation 3 · 5"] == itself["relation 3 · 5"]


# the report: relations between classes


def related(
    series: str, values: dict[str, list[list[float | None]]] | list, order: int = 1, **given
) -> list[Record]:
    """Rows of the matrix ``relation``, a list of matrices one a seed."""
    names = given.pop("names", "ab")
    common = {
        "series": series,
        "order": order,
        "probe": "relations",
        "metric": "relation",
        "unit": "1",
    } | given
    return [
        record(**common, seed=seed, group=f"{a} · {b}", value=matrix[k][m])
        for seed, matrix in enumerate(values)
        for k, a in enumerate(names)
        for m, b in enumerate(names)
    ]


def one(*rows: list[Record]) -> Panel:
    (panel,) = panels(Records(r for part in rows for r in part))
    return panel


def test_matrices_are_of_dense_and_each_series_the_mean_over_seeds() -> None:
    dense = [[[1.0, -0.5], [-0.5, 1.0]], [[1.0, -0.7], [-0.7, 1.0]]]
    lost = [[[1.0, None], [None, None]]]
    panel = one(
        related("dense", dense, order=0),
        related("student", lost, note="the first 2 of 9 classes"),
        accuracies("silent", 1, 1.0, {0: 9.0}),
    )
    found = matrices(panel, "final")
    assert [m.title for m in found] == ["dense", "student"]
    assert [m.classes for m in found] == [("a", "b"), ("a", "b")]
    assert [pytest.approx(row) for row in found[0].values] == [(1, -0.6), (-0.6, 1)]
    assert (found[0].counts, found[1].counts) == ((2,), (1,))
    assert found[1].values == ((1.0, None), (None, None))
    assert found[1].notes == ("the first 2 of 9 classes",)
    chart = class_relations(panel, "final", "relations")
    assert "Mean over 1–2 seeds." in chart.caption
    assert "Shown are the first 2 of 9 classes." in chart.caption


def test_classes_may_be_called_anything() -> None:
    names = ["a · a", "b", "· c", "<d>"]
    square = [[1.0 if k == m else k / 10 - m / 5 for m in range(4)] for k in range(4)]
    (matrix,) = matrices(one(related("dense", [square], order=0, names=names)), "final")
    assert matrix.classes == tuple(names)
    assert [list(row) for row in matrix.values] == square


def test_a_series_of_several_states_says_which_is_drawn() -> None:
    square = [[[1.0, 0.0], [0.0, 1.0]]]
    rows = [related("s", square, order=k, state=f"student_{n}.ce") for k, n in enumerate(SIZES)]
    assert [m.title for m in matrices(one(*rows), "final")] == ["s, linear"]


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "most"), [(3, 180_000), (20, 400_000), (40, 1_600_000)])
def test_the_matrices_are_drawn_without_a_picture_and_in_few_bytes(classes: int, most: int) -> None:
    names = [f"class {k}" for k in range(classes)]
    square = relations(torch.randn(classes, 30, generator=generator(), dtype=torch.float64)).tolist()
    rows = [related(f"series {k}", [square], names=names) for k in range(11)]
    with drawing.settings():
        panel = one(related("dense", [square], order=0, names=names), *rows)
        chart = class_relations(panel, "final", "relations")
    assert "<image" not in chart.svg
    assert len(chart.svg) < most
    assert ("4 more series in the records." in chart.caption) == (classes > 12)
    assert ("class 2</text>" in chart.svg) == (classes <= 20)
    assert chart.svg == charts_again(panel)


def charts_again(panel: Panel) -> str:
    with drawing.settings():
        return class_relations(panel, "final", "relations").svg


def test_the_page_has_one_section_of_relations_and_lists_no_pair_of_classes(tmp_path) -> None:
    figures = {
        ("relations", "entropy"): "nats",
        ("relations", "relation_agreement"): "1",
        ("relations", "relation_confusion"): "1",
        ("rescaling", "rescaling_hard"): "1",
        ("rescaling", "rescaling_rank_correlation"): "1",
    }
    rows = []
    for series, order in (("dense", 0), ("student", 1)):
        rows += accuracies(series, order, 1.0, {0: 90.0, 1: 91.0})
        rows += related(series, [[[1.0, -0.5], [-0.5, 1.0]]] * 2, order=order)
        for seed in (0, 1):
            rows += [
                record(series=series, order=order, seed=seed, probe=p, metric=m, unit=u, value=0.123 + seed)
                for (p, m), u in figures.items()
            ]
    assert not leftover_tables(one(rows), "final")
    page = Page(write_report(Records(rows), tmp_path, "relations"))
    assert page.ids["relations"] == 1
    assert page.ids["other"] == 0
    for words in ("Agreement", "Confusion", "Median, hard", "Rank correlation", "0.623", "±0.707"):
        assert words in page.text
    assert (tmp_path / "class_relations.svg").is_file()


# the report: students of several sizes


def students(
    series: str, task: str, gain: float, recipe: str = "kd", sizes: dict[str, int] = SIZES
) -> list[Record]:
    """A series of one student a size, over two seeds that differ by 10 points."""
    rows = []
    for order, (name, size) in enumerate(sizes.items(), 1):
        given = {"state": f"student_{name}.{task}", "recipe": recipe}
        rows += accuracies(series, order, 1.0, {s: 50 + 10 * s + gain * order + s for s in (0, 1)}, **given)
        for seed in (0, 1):
            given |= {"series": series, "order": order, "seed": seed, "probe": "structure"}
            rows.append(record(**given, metric="parameters", value=size, unit="1", basis="theoretical"))
    return rows


def teacher(recipe: str = "kd") -> list[Record]:
    return accuracies("dense", 0, 1.0, {0: 95.0, 1: 96.0}, recipe=recipe)


def test_the_gain_of_each_later_series_is_paired_by_seed_and_ordered_by_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib.axes import Axes

    backwards = dict(reversed(SIZES.items()))
    panel = one(
        teacher(),
        students("labels", "ce", 0.0, sizes=backwards),
        students("taught", "kd", 1.5, sizes=backwards),
        students("else", "x", 9.0, sizes={"a": 1, "b": 2, "c": 3, "d": 4}),
    )
    (family,) = families(panel, "final")
    assert [s.label for s in family] == ["labels", "taught"]
    (table,) = gain_tables(panel, "final")
    assert [row.label for row in table.rows] == list(SIZES)
    assert [head for head, _ in table.heads] == ["Parameters", "labels", "taught", "taught"]
    assert [row.cells[0].plain for row in table.rows][:2] == ["7\u202f850", "9\u202f550"]
    assert table.rows[0].cells[1].plain == "55.5±7.8"
    # the seeds' own 11 points cancel
    assert [row.cells[3].plain for row in table.rows] == ["+6.0±0.0", "+4.5±0.0", "+3.0±0.0", "+1.5±0.0"]
    assert table.counts == (2,)
    bars: list[list[float]] = []
    errorbar = Axes.errorbar
    monkeypatch.setattr(
        Axes, "errorbar", lambda *given, **k: (bars.append(given[3]), errorbar(*given, **k))[1]
    )
    apart = [
        dataclasses.replace(r, value=r.value + r.seed) if (r.series, r.probe) == ("taught", "accuracy") else r
        for r in panel.rows
    ]
    with drawing.settings():
        (chart,) = gain_vs_parameters(one(apart), "final", "gain")
    assert bars == [[0.0] * 4]
    assert "Two seeds: too few for an error." in chart.caption, "a standard error from two draws isn't shown"
    assert all(f">{name}</text>" in chart.svg for name in SIZES)
    assert "taught" in chart.svg


@pytest.mark.parametrize(
    "rows",
    [
        students("labels", "ce", 0.0),
        students("labels", "ce", 0.0) + students("taught", "kd", 1.0, recipe="other"),
        students("labels", "ce", 0.0, sizes={"a": 5, "b": 5, "c": 7})
        + students("taught", "kd", 1.0, sizes={"a": 5, "b": 5, "c": 7}),
        [
            dataclasses.replace(r, density=1 / (1 + r.order))
            for r in students("labels", "ce", 0.0) + students("taught", "kd", 1.0)
        ],
    ],
    ids=["one series", "two recipes", "two sizes", "pruned"],
)
def test_what_is_no_family_of_students_has_no_gain(rows: list[Record]) -> None:
    panel = one(teacher(), rows)
    assert not families(panel, "final")
    assert not gain_vs_parameters(panel, "final", "gain")
    assert not gain_tables(panel, "final")


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("student_mlp12.ce", "mlp12"),
        ("student_a_b.ce", "a_b"),
        ("student_mlp12", "mlp12"),
        ("dense", "dense"),
        ("level1.prune_kd", "level1.prune_kd"),
    ],
)
def test_a_student_s_name_is_its_branch(state: str, name: str) -> None:
    panel = one(accuracies("s", 1, 1.0, {0: 1.0}, state=state))
    assert branch(panel.series[0].at("final")[0]) == name


def test_students_of_one_density_are_told_apart_and_compared_one_by_one() -> None:
    panel = one(teacher(), students("labels", "ce", 0.0), students("taught", "kd", 1.5))
    table = lecture_table(panel, "final")
    assert [head for head, _ in table.heads][:2] == ["Density", "State"]
    assert [row.cells[1].text for row in table.rows] == ["–", *SIZES, *SIZES]
    (differences,) = difference_tables(panel, "final")
    assert [row.cells[0].plain for row in differences.rows] == [
        "−1.5±0.0",
        "−3.0±0.0",
        "−4.5±0.0",
        "−6.0±0.0",
    ]


def test_names_of_students_keep_a_distance() -> None:
    assert apart([0.1, 0.5], 0.2) == [0.1, 0.5]
    assert apart([0.1, 0.15, 0.2], 0.1) == pytest.approx([0.1, 0.2, 0.3])
    assert apart([0.5, 0.95, 0.97], 0.1) == pytest.approx([0.5, 0.9, 1.0])


def test_with_students_of_several_sizes_the_page_draws_their_gain_and_nothing_against_density(
    tmp_path,
) -> None:
    rows = teacher() + students("labels", "ce", 0.0) + students("taught", "kd", 1.5)
    text = Page(write_report(Records(rows), tmp_path / "one", "students")).text
    assert "Gain over labels by the student’s size" in text
    assert (tmp_path / "one" / "gain_vs_parameters.svg").is_file()
    assert not list((tmp_path / "one").glob("*_vs_density.svg"))
    varied = rows + accuracies("pruned", 1, 0.5, {0: 80.0, 1: 81.0}, recipe="kd")
    write_report(Records(varied), tmp_path / "two", "students and a pruned net")
    assert (tmp_path / "two" / "gain_vs_parameters.svg").is_file()
    assert (tmp_path / "two" / "accuracy_vs_density.svg").is_file()
