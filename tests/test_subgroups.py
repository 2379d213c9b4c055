"""Sub-groups: rates from hand-made tables, their changes, attributes from files, coarse classes with a tail inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cases_data import picture
from compressbench.bench import Bench
from compressbench.comparing.rates import confusion, mean_change, paired_change, rates
from compressbench.data.attributes import read_attributes
from compressbench.data.celeba import celeba
from compressbench.data.dataset import Raw, Split
from compressbench.data.folder import image_folder
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.populations import Member, Population
from compressbench.probes.subgroups import Subgroups
from compressbench.records import Metric, Record, Records
from compressbench.report.page import write_report


def test_rates_of_a_hand_made_table() -> None:
    """TP 6, FN 2, FP 3, TN 9 of class 1: FPR 3/12, FNR 2/8, error 5/20."""
    labels = np.array([1] * 8 + [0] * 12)
    answers = np.array([1] * 6 + [0] * 2 + [1] * 3 + [0] * 9)
    found = rates(confusion(labels, answers, np.zeros(20, np.int64), 1, 2), positive=1)
    assert (found.error[0], found.fpr[0], found.fnr[0]) == (25.0, 25.0, 25.0)
    other = rates(confusion(labels, answers, np.zeros(20, np.int64), 1, 2), positive=0)
    assert (other.fpr[0], other.fnr[0]) == (25.0, 25.0)
    more = np.append(answers, 1), np.append(labels, 0)  # one false positive more: FP 4 of 13
    assert rates(confusion(more[1], more[0], np.zeros(21, np.int64), 1, 2), 1).fpr[0] == pytest.approx(
        400 / 13
    )


def test_rates_agree_with_sklearn() -> None:
    """Literals of sklearn.metrics.confusion_matrix([0,1,2,2,1,0,1,2], [0,2,2,1,1,1,1,2], labels=[0,1,2])."""
    labels, answers = np.array([0, 1, 2, 2, 1, 0, 1, 2]), np.array([0, 2, 2, 1, 1, 1, 1, 2])
    table = confusion(labels, answers, np.zeros(8, np.int64), 1, 3)
    assert table[0, :, :3].tolist() == [[1, 1, 0], [0, 2, 1], [0, 1, 2]]
    found = rates(table)
    assert found.error[0] == 37.5
    assert found.fpr[0] == pytest.approx(100 * (0 / 6 + 2 / 5 + 1 / 5) / 3)
    assert found.fnr[0] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 3) / 3)


def test_an_answer_that_is_none_is_wrong_and_for_no_class() -> None:
    found = rates(confusion(np.array([0, 1]), np.array([-1, -1]), np.zeros(2, np.int64), 1, 2), positive=1)
    assert (found.error[0], found.fpr[0], found.fnr[0]) == (100.0, 0.0, 100.0)


def test_rates_are_undefined_where_there_is_no_example() -> None:
    found = rates(confusion(np.array([1, 1]), np.array([1, 0]), np.array([0, 0]), 2, 2), positive=1)
    assert math.isnan(found.fpr[0])
    assert found.fnr[0] == 50.0
    assert math.isnan(found.error[1])


def test_paired_change_by_hand() -> None:
    """20 errors become 30, 15 of them the same: +50 %, log interval of standard error sqrt(20 / 600)."""
    found = paired_change(15, 20, 30)
    reach = 1.959963984540054 * math.sqrt(20 / 600)
    assert found.value == pytest.approx(50)
    assert found.low == pytest.approx(100 * (1.5 * math.exp(-reach) - 1))
    assert found.high == pytest.approx(100 * (1.5 * math.exp(reach) - 1))
    assert math.isnan(paired_change(0, 0, 3).value)
    assert "dense rate is 0" in paired_change(0, 0, 3).why
    assert paired_change(0, 4, 0).value == -100
    assert math.isnan(paired_change(0, 4, 0).low)


def test_paired_interval_covers() -> None:
    """Nets that err together or apart with 12 and 18 %: of 1,000 draws about 95 % cover +50 %."""
    random = np.random.default_rng(0)
    cells = random.multinomial(600, [0.08, 0.04, 0.10, 0.78], size=1000)
    found = [paired_change(int(b), int(b + d), int(b + s)) for b, d, s, _ in cells]
    assert 93 <= 100 * np.mean([f.low <= 50 <= f.high for f in found]) <= 97


def test_mean_change_by_hand() -> None:
    """At Fieller's ends the other less r times the dense is t(2) = 4.302652729911275 standard errors from 0."""
    dense, own = np.array([9.0, 10.0, 11.0]), np.array([16.0, 14.0, 15.0])
    found = mean_change(dense, own, paired=False)
    assert found.value == pytest.approx(50)
    for end, sign in ((found.low, 1), (found.high, -1)):
        r = 1 + end / 100
        assert sign * (15 - 10 * r) / math.sqrt((1 + r**2) / 3) == pytest.approx(4.302652729911275)
    paired = mean_change(dense, own, paired=True)
    for end, sign in ((paired.low, 1), (paired.high, -1)):
        left = own - (1 + end / 100) * dense
        assert sign * left.mean() / (left.std(ddof=1) / math.sqrt(3)) == pytest.approx(4.302652729911275)
    assert math.isnan(mean_change(np.zeros(3), own, paired=True).value)
    for one, other, why in (
        (dense[:1], own[:1], "one net"),
        (np.array([0.0, 0.0, 3.0]), own, "told from 0"),
        (dense, dense, "the rate of its dense one"),
        (dense, 0 * own, "none is left"),
    ):
        told = mean_change(one, other, paired=True)
        assert math.isnan(told.low)
        assert why in told.why


def made(classes: tuple[str, ...]) -> Raw:
    """20 test examples, 8 of them men; of train 4 of 40 are."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    train = Split.of(images, np.arange(40) % len(classes))
    test = Split.of(images[:20], np.arange(20) % len(classes))
    old = {part: np.arange(n) % 4 < 2 for part, n in (("train", 40), ("test", 20))}
    male = {"train": np.arange(40) < 4, "test": np.arange(20) < 8}
    return Raw(
        train, test, tuple(classes), "", {p: {"male": male[p], "old": old[p]} for p in ("train", "test")}
    )


def _bench(classes: tuple[str, ...] = ("no", "yes")) -> Bench:
    read = {"_target_": f"{__name__}.made", "classes": classes}
    return Bench(load({"name": "made", "read": read}, (__name__,)), seed=0)


def _many(rows: list[np.ndarray], name: str = "net") -> Population:
    def member(k: int, labels: np.ndarray) -> Member:
        return Member(f"{name}{k}", k, lambda: torch.as_tensor(labels), lambda: torch.zeros(0))

    return Population([member(k, labels) for k, labels in enumerate(rows)])


def _value(found: list[Metric], name: str, group: str) -> float | None:
    return next(m.value for m in found if (m.name, m.group) == (name, group))


def _answers(bench: Bench, wrong: list[int]) -> np.ndarray:
    """Right but for the test examples of these positions in the source."""
    examples = bench.dataset.split("test")
    labels = np.asarray(examples.labels).copy()
    flipped = np.isin(np.asarray(examples.rows), wrong)
    labels[flipped] = (labels[flipped] + 1) % len(bench.task.classes)
    return labels


def test_populations_by_sub_group() -> None:
    bench = _bench()
    dense = _many([_answers(bench, [0, 8]), _answers(bench, [1, 8])], "dense")
    own = _many([_answers(bench, [0, 1, 8]), _answers(bench, [0, 1, 2, 8])], "pruned")
    found = list(Subgroups().measure_many(own, dense, bench))
    assert _value(found, "group_training_share", "male=True") == 10
    assert _value(found, "group_error", "male=True") == pytest.approx(100 * (2 / 8 + 3 / 8) / 2)
    assert _value(found, "group_error_sd", "male=True") == pytest.approx(100 * np.std([2 / 8, 3 / 8], ddof=1))
    assert _value(found, "group_error_change", "male=True") == pytest.approx(100 * (2.5 - 1) / 1)
    assert _value(found, "group_error_change", "male=False") == 0
    # positive is "yes", the odd ones: of the men 0 and 2 are answered yes falsely, 1 is missed
    assert _value(found, "group_fpr", "male=True") == pytest.approx(100 * (1 / 4 + 2 / 4) / 2)
    assert _value(found, "group_fnr", "male=True") == pytest.approx(100 * (1 / 4 + 1 / 4) / 2)
    other = list(Subgroups(positive="no").measure_many(own, dense, bench))
    assert _value(other, "group_fpr", "male=True") == pytest.approx(25)
    alone = list(Subgroups().measure_many(dense, dense, bench))
    assert not [m for m in alone if "change" in m.name]


@dataclass
class _Seen:
    """As much of a view as the probe asks for."""

    label: str
    answers: torch.Tensor
    labels: torch.Tensor
    unanswered: int = 0


def test_a_single_state_against_its_reference() -> None:
    bench = _bench()
    labels = torch.as_tensor(np.asarray(bench.dataset.split("test").labels))
    dense = _Seen("dense", torch.as_tensor(_answers(bench, [0, 1, 8])), labels)
    own = _Seen("pruned", torch.as_tensor(_answers(bench, [0, 2, 4, 8])), labels)
    found = list(Subgroups().measure(own, dense, bench))  # type: ignore[arg-type]
    # of the men 0 and 1 become 0, 2, 4: 2 errors to 3, one the same
    assert _value(found, "group_error_change", "male=True") == pytest.approx(50)
    reach = 1.959963984540054 * math.sqrt((2 + 3 - 2 * 1) / (2 * 3))
    low = 100 * (1.5 * math.exp(-reach) - 1)
    assert _value(found, "group_error_change_low", "male=True") == pytest.approx(low)
    # false positives 0 become 0, 2, 4; the false negative 1 is gone
    assert _value(found, "group_fpr_change", "male=True") == pytest.approx(200)
    assert _value(found, "group_fnr_change", "male=True") == -100
    assert _value(found, "group_fnr_change", "male=False") is None
    (row,) = [m for m in found if (m.name, m.group) == ("group_error", "male=True")]
    assert (row.value, row.n) == (pytest.approx(37.5), 8)
    assert not [m for m in Subgroups().measure(dense, dense, bench) if "change" in m.name]  # type: ignore[arg-type]


def test_crossings_and_classes() -> None:
    bench = _bench()
    own = _many([_answers(bench, [0])])
    crossed = list(Subgroups(by="male & old").measure_many(own, own, bench))
    assert _value(crossed, "group_error", "male=True & old=True") == 25  # 0, 1, 4, 5
    assert _value(crossed, "group_error", "male=True & old=False") == 0
    assert _value(crossed, "group_training_share", "male=True & old=True") == 5
    classes = list(Subgroups(by=["classes", "classes & male"]).measure_many(own, own, bench))
    assert _value(classes, "group_error", "no") == 10
    assert _value(classes, "group_error", "no & male=True") == 25
    assert _value(classes, "group_fpr", "yes") is None
    three = list(Subgroups(by="male").measure_many(own, own, _bench(("a", "b", "c"))))
    assert _value(three, "group_error", "male=True") is not None


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        (Subgroups(by="sex"), "has no attribute 'sex'"),
        (Subgroups(by="male & sex"), "has no attribute 'sex'"),
        (Subgroups(positive="maybe"), "positive='maybe' is no class"),
        (Subgroups(positive=2), "positive=2 is no class"),
    ],
)
def test_bad_settings_are_said(probe: Subgroups, told: str) -> None:
    bench = _bench()
    own = _many([_answers(bench, [])])
    with pytest.raises(UserError, match=told):
        list(probe.measure_many(own, own, bench))


def test_positive_needs_two_classes() -> None:
    bench = _bench(("a", "b", "c"))
    own = _many([_answers(bench, [])])
    with pytest.raises(UserError, match="there are 3 classes"):
        list(Subgroups(positive=1).measure_many(own, own, bench))


def _folder(root: Path) -> list[str]:
    names = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in ("cat", "dog") for k in range(3)]
    for k, name in enumerate(names):
        picture(root / name, 20 * k)
    return names


def _table(names: list[str], header: str = "path,dark,owner") -> str:
    rows = [f"{name},{k % 2 if k < 6 else 2},{'ann' if k % 3 else 'bob'}" for k, name in enumerate(names)]
    return "\n".join([header, *reversed(rows)]) + "\n"


def test_attributes_beside_a_folder(tmp_path: Path) -> None:
    names = _folder(tmp_path)
    (tmp_path / "attributes.csv").write_text(_table(names))
    raw = image_folder(str(tmp_path), attributes="attributes.csv")
    assert raw.attributes["train"]["dark"].tolist() == ["0", "1", "0", "1", "0", "1"]
    assert raw.attributes["test"]["dark"].tolist() == ["2"] * 6
    assert raw.attributes["test"]["owner"].tolist() == ["bob", "ann", "ann", "bob", "ann", "ann"]
    (tmp_path / "flat").mkdir()
    flat = [f"{c}/{k}.png" for c in ("cat", "dog") for k in range(4)]
    for k, name in enumerate(flat):
        picture(tmp_path / "flat" / name, 20 * k)
    rows = "".join(f"{name},{k}\n" for k, name in enumerate(flat))
    (tmp_path / "flat" / "a.csv").write_text("path,number\n" + rows)
    split = image_folder(str(tmp_path / "flat"), test_fraction=0.25, attributes="a.csv")
    for part, examples in (("train", split.train), ("test", split.test)):
        assert split.attributes[part]["number"].tolist() == [str(r) for r in examples.rows]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.replace("path,", "file,", 1), "no column 'path'"),
        (lambda t: t + "train/cat/9.png,1,ann\n", "no picture 'train/cat/9.png'"),
        (lambda t: t + "../../etc/passwd,1,ann\n", r"no picture '\.\./\.\./etc/passwd'"),
        (lambda t: t + "train/cat/0.png,1,ann\n", "'train/cat/0.png' is listed twice"),
        (lambda t: "\n".join(t.splitlines()[:-1]), "no row for 'train/cat/0.png'"),
        (lambda t: t.replace(",1,ann", ",,ann", 1), "no value of dark"),
        (lambda t: t.replace(",1,ann", ",1", 1), "2 values for 3 columns"),
        (lambda t: t.replace("dark,owner", "dark,dark", 1), "stands there twice"),
        (lambda t: t.replace("dark,owner", "dark,a=b", 1), "can't be an attribute's name"),
        (lambda t: t.replace("dark,owner", "dark,classes", 1), "can't be an attribute's name"),
        (lambda t: t.replace(",1,ann", ',1,"ann', 1), "no CSV|values for 3"),
        (lambda t: t.replace("ann", "a\x1bnn", 1), "printable"),
        (lambda t: "", "no column 'path'"),
    ],
)
def test_bad_tables_are_said_in_a_line(tmp_path: Path, change, told: str) -> None:  # type: ignore[no-untyped-def]
    names = _folder(tmp_path)
    (tmp_path / "attributes.csv").write_text(change(_table(names)))
    with pytest.raises(UserError, match=told) as found:
        image_folder(str(tmp_path), attributes="attributes.csv")
    assert "\n" not in str(found.value)


def test_no_table_outside_of_the_folder(tmp_path: Path) -> None:
    _folder(tmp_path / "own")
    (tmp_path / "secret.csv").write_text("path,a\n")
    (tmp_path / "own" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for name in ("../secret.csv", str(tmp_path / "secret.csv"), "link.csv", "none.csv"):
        with pytest.raises(UserError):
            image_folder(str(tmp_path / "own"), attributes=name)
    with pytest.raises(UserError, match="leads outside"):
        image_folder(str(tmp_path / "own"), attributes="link.csv")


def test_a_large_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressbench.data.attributes.MOST_BYTES", 10)
    (tmp_path / "a.csv").write_text("path,a\nx,1\nyy,2\n")
    with pytest.raises(UserError, match="10 are the most"):
        read_attributes(tmp_path / "a.csv", ["x", "yy"], "here")


def _celeba(root: Path) -> Path:
    base = root / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{k:06}.jpg" for k in range(1, 7)]
    for k, name in enumerate(names):
        Image.new("RGB", (18, 22), (40 * k, 0, 0)).save(base / "img_align_celeba" / name)
    rows = ["-1 1 -1", "1 -1 1", "-1 -1 1", "1 1 -1", "-1 1 1", "1 -1 -1"]
    table = "6\nBlond_Hair Male Young\n" + "".join(f"{n}  {r}\n" for n, r in zip(names, rows, strict=True))
    (base / "list_attr_celeba.txt").write_text(table)
    parts = zip(names, (0, 0, 0, 1, 2, 2), strict=True)
    (base / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in parts))
    return base


def test_celeba_as_published(tmp_path: Path) -> None:
    _celeba(tmp_path)
    raw = celeba(str(tmp_path), size=8)
    assert raw.classes == ("not Blond_Hair", "Blond_Hair")
    assert raw.train.labels.tolist() == [0, 1, 0]
    assert raw.test.labels.tolist() == [0, 1]
    assert raw.attributes["train"]["Male"].tolist() == [1, 0, 0]
    assert raw.attributes["test"]["Young"].tolist() == [1, 0]
    assert raw.train["images"].shape == (3, 3, 8, 8)
    assert abs(int(raw.test["images"][1, 0, 4, 4]) - 200) < 4
    assert len(celeba(str(tmp_path), size=8, train=2).train) == 2


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("list_attr_celeba.txt", ("-1 1 -1", "-1 1"), "3 values of -1 or 1"),
        ("list_attr_celeba.txt", ("000001.jpg", "000002.jpg"), "listed twice"),
        ("list_attr_celeba.txt", ("000001.jpg", "../x.jpg"), "no name of a picture"),
        ("list_attr_celeba.txt", ("6\n", ""), "doesn't begin with"),
        ("list_eval_partition.txt", ("000001.jpg 0", "000001.jpg 3"), "0, 1 or 2"),
        ("list_eval_partition.txt", ("000001.jpg 0", "000001.jpg 0\n000009.jpg 0"), "000009.jpg is in"),
        ("list_eval_partition.txt", ("000006.jpg 2\n", ""), "000006.jpg is in .* cut short"),
        ("list_attr_celeba.txt", ("000006.jpg  1 -1 -1\n", ""), "has 5 pictures, and its first line says 6"),
    ],
)
def test_bad_celeba_is_said(tmp_path: Path, file: str, change: tuple[str, str], told: str) -> None:
    path = _celeba(tmp_path) / file
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=told):
        celeba(str(tmp_path), size=8)


def test_celeba_attributes_are_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        celeba(str(tmp_path))
    _celeba(tmp_path)
    for kwargs in ({"label": "Blonde"}, {"attributes": ["Old"]}, {"attributes": ["Blond_Hair"]}, {"size": 0}):
        with pytest.raises(UserError):
            celeba(str(tmp_path), **kwargs)  # type: ignore[arg-type]


EVEN_ODD = {"even": [0, 2, 4, 6, 8], "odd": [1, 3, 5, 7, "9"]}


def _digits(**settings: object) -> dict[str, object]:
    return {
        "name": "digits",
        "read": {"_target_": "compressbench.data.idx.digits"},
        "validation": 0.1,
        **settings,
    }


def test_coarse_classes_keep_the_fine_ones() -> None:
    fine, coarse = load(_digits()), load(_digits(coarse=EVEN_ODD))
    assert coarse.classes == ("even", "odd")
    assert coarse.groups["fine"] == tuple("0123456789")
    test = coarse.split("test")
    digits = dict(zip(fine.split("test").rows.tolist(), fine.split("test").labels.tolist(), strict=True))
    known = [digits[row] for row in test.rows.tolist()]
    assert test.groupings["fine"].tolist() == known
    assert test.labels.tolist() == [digit % 2 for digit in known]


def test_a_tail_falls_inside_of_each_class_and_in_train_alone() -> None:
    plain = load(_digits(coarse=EVEN_ODD))
    tailed = load(_digits(coarse=EVEN_ODD, tail={"by": "fine", "ratio": 10}))
    sizes = np.bincount(tailed.split("train").groupings["fine"])
    for first in (0, 1):
        own = sizes[first::2]
        assert (np.diff(own) < 0).all()
        assert 9 <= own[0] / own[-1] <= 12
    for part in ("validation", "test"):
        assert tailed.split(part).rows.tolist() == plain.split(part).rows.tolist()
    assert set(tailed.split("train").rows.tolist()) < set(plain.split("train").rows.tolist())
    again = load(_digits(coarse=EVEN_ODD, tail={"by": "fine", "ratio": 10}))
    assert again.fingerprint == tailed.fingerprint


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"coarse": {"all": list(range(10))}}, "no mapping of two classes"),
        ({"coarse": {"a": [0, 1, 2], "b": [3, 4]}}, "class 5 of digits is in none"),
        ({"coarse": {"a": list(range(10)), "b": [3]}}, "class 3 of digits is named twice"),
        ({"coarse": {"a": list(range(10)), "b": [10]}}, "digits has no class '10'"),
        ({"coarse": {"a": "12", "b": [1]}}, "no list of classes"),
        ({"tail": {"by": "fine", "ratio": 10}}, "has no attribute 'fine'"),
        ({"coarse": EVEN_ODD, "tail": {"by": "fine"}}, "it is {by: ATTRIBUTE"),
        ({"coarse": EVEN_ODD, "tail": {"by": "fine", "ratio": 0.5}}, "1 or more"),
        ({"coarse": EVEN_ODD, "tail": {"by": "fine", "ratio": 5000}}, "leaves fine=6 empty"),
    ],
)
def test_bad_coarse_and_tail_are_said(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(_digits(**settings))


def _record(series: str, metric: str, group: str, value: float | None, note: str = "") -> Record:
    return Record(
        recipe="bias", model="m", dataset="d", scale="smoke", hardware="cpu", seed=0, series=series,
        moment="populations", state=series, order=0, density=1.0, compute=1.0, probe="subgroups",
        metric=metric, group=group, value=value, unit="%", basis="measured", n=6, note=note,
        key=series, reference="dense", dtype="fp32", versions="", machine="",
    )  # fmt: skip


def test_the_report_sorts_by_share_and_escapes(tmp_path: Path) -> None:
    rows = []
    for group, share, error in (("fine=common", 60.0, 5.0), ("fine=<b>rare</b>", 4.0, 20.0)):
        for series in ("dense", "pruned"):
            rows.append(_record(series, "group_training_share", group, share))
            rows.append(_record(series, "group_error", group, error))
        rows.append(_record("pruned", "group_error_change", group, 10 * error))
        rows.append(_record("pruned", "group_error_change_low", group, 9 * error))
        rows.append(_record("pruned", "group_error_change_high", group, 11 * error))
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert page.index("fine=&lt;b&gt;rare") < page.index("fine=common")
    assert "<b>rare" not in page
    assert "(+180.0 to +220.0)" in page
    assert 'id="subgroups"' in page
    assert 'id="populations"' not in page
    bare = [Record(**{**r.__dict__, "metric": "something", "group": ""}) for r in rows[:1]]
    assert 'id="subgroups"' not in write_report(Records(bare), tmp_path / "other", "t").read_text()
