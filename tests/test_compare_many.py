"""``compare --against``: two populations of nets from files of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import compressbench
from cases_data import picture
from compressbench.cli.compare import main
from compressbench.errors import UserError
from compressbench.records import read_jsonl

TRUTH = np.arange(60) % 3


def _nets(folder: Path, wrong: list[list[int]], **more: object) -> Path:
    """A file a net, right but for the examples listed."""
    folder.mkdir(parents=True)
    for k, examples in enumerate(wrong):
        said = TRUTH.copy()
        said[examples] = (said[examples] + 1) % 3
        logits = 5.0 * np.eye(3)[said] + 0.01 * k
        np.savez(folder / f"{k}.npz", **{"logits": logits, "labels": TRUTH, **more})  # type: ignore[arg-type]
    return folder


DENSE = [[0, 1], [3, 1], [0, 4, 2], [6, 7]]
PRUNED = [[0, 3, 6, 9], [0, 3, 9, 12, 1], [0, 9, 15, 18], [0, 9, 3, 2, 21]]


def test_figures_of_two_populations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, pruned = _nets(tmp_path / "dense", DENSE), _nets(tmp_path / "pruned", PRUNED)
    out = tmp_path / "out"
    argv = [str(dense), "--against", str(pruned / "*.npz"), "--json", str(tmp_path / "x.json")]
    assert main([*argv, "--outputs", str(out)]) == 0
    assert "compressed" in capsys.readouterr().out
    place = next((out / "compared").iterdir())
    assert (place / "report.html").is_file()
    found = read_jsonl(place / "records.jsonl")

    def value(metric: str, group: str = "", series: str = "compressed") -> float:
        (row,) = found.where(metric=metric, group=group, series=series)
        return row.value  # type: ignore[return-value]

    assert value("population_top1", series="dense") == pytest.approx(100 * (1 - 9 / 240))
    # of class 0 (0, 3, 6 …, 20 examples) the dense nets err on 1, 1, 1, 1, the pruned ones on 4, 4, 4, 4
    assert value("group_error", "class 0", "dense") == pytest.approx(5)
    assert value("group_error_change", "class 0") == pytest.approx(100 * (16 - 4) / 4)
    # of class 1 (1, 4, 7 …) 1, 1, 1, 1 and 0, 1, 0, 0
    recall = [1 - np.array(own) / 20 for own in ((1, 1, 1, 1), (0, 1, 0, 0))]
    top1 = [np.array([60 - len(w) for w in own]) / 60 for own in (DENSE, PRUNED)]
    test = stats.ttest_ind(recall[1] - top1[1].mean(), recall[0] - top1[0].mean(), equal_var=False)
    assert value("impact_p", "class 1") == pytest.approx(test.pvalue, abs=1e-9)
    # 3 and 9 are missed by most pruned nets; on 1 two of four dense nets say 2, and of ties the highest is taken
    assert value("exemplar_count") == 3
    document = json.loads((tmp_path / "x.json").read_text())
    assert len(document["records"]) == len(found)


def test_sub_groups_from_a_table_beside_the_pictures(tmp_path: Path) -> None:
    names = [f"{c}/{k:02}.png" for c in ("a", "b", "c") for k in range(20)]
    for k, name in enumerate(names):
        picture(tmp_path / "data" / name, k)
    rows = "".join(f"{name},{'dark' if k < 30 else 'light'}\n" for k, name in enumerate(names))
    (tmp_path / "table.csv").write_text("path,light\n" + rows)
    truth = np.repeat(np.arange(3), 20)
    for name, wrong in (("one", 3), ("other", 6)):
        (tmp_path / name).mkdir()
        for k in range(2):
            said = truth.copy()
            said[k : k + wrong] = 2
            np.savez(tmp_path / name / f"{k}.npz", logits=np.eye(3)[said] + k, ids=np.array(names))
    out = tmp_path / "out"
    argv = [str(tmp_path / "one"), "--against", str(tmp_path / "other"), "--data", str(tmp_path / "data")]
    assert main([*argv, "--attributes", str(tmp_path / "table.csv"), "--outputs", str(out)]) == 0
    found = read_jsonl(next((out / "compared").iterdir()) / "records.jsonl")
    (row,) = found.where(metric="group_error", series="compressed", group="light=dark")
    assert row.value == pytest.approx(100 * 6 / 30)
    (row,) = found.where(metric="group_error_change", series="compressed", group="light=dark")
    assert row.value == pytest.approx(100)
    (row,) = found.where(metric="group_error_change", series="compressed", group="light=light")
    assert row.value is None


def test_sub_groups_of_two_models_from_a_table(tmp_path: Path) -> None:
    names = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in "ab" for k in range(10)]
    for k, name in enumerate(names):
        picture(tmp_path / "data" / name, k)
    table = tmp_path / "table.csv"
    rows = "".join(f"{name},{k % 2}\n" for k, name in enumerate(names))
    table.write_text("path,odd\n" + rows)
    truth = np.repeat([0, 1], 10)
    for name, wrong in (("one", [0]), ("other", [1, 3, 5])):
        said = truth.copy()
        said[wrong] = 1 - said[wrong]
        np.savez(tmp_path / f"{name}.npz", logits=4.0 * np.eye(2)[said])
    two, data = [str(tmp_path / f"{name}.npz") for name in ("one", "other")], str(tmp_path / "data")
    account = compressbench.compare(two[0], two[1], data=data, attributes=table, quick=True)
    assert {name: group.tolist() for name, (group, _) in account.asked.groups.items()} == {"odd": [0, 1] * 10}
    table.write_text("path,odd\n" + rows + "val/a/1.png,1\n")
    with pytest.raises(UserError, match=r"table.csv:42: there is no picture 'val/a/1.png'"):
        compressbench.compare(two[0], two[1], data=data, attributes=table, quick=True)
    with pytest.raises(UserError, match="goes with a folder of pictures"):
        compressbench.compare(two[0], two[1], data="dataset=digits", attributes=table, quick=True)


def _shorter(folder: Path) -> None:
    np.savez(folder / "9.npz", logits=np.eye(3)[TRUTH[:50]], labels=TRUTH[:50])


def _other_labels(folder: Path) -> None:
    np.savez(folder / "9.npz", logits=np.eye(3)[TRUTH], labels=(TRUTH + 1) % 3)


def _other_classes(folder: Path) -> None:
    np.savez(folder / "9.npz", logits=np.eye(4)[TRUTH], labels=TRUTH)


def _other_ids(folder: Path) -> None:
    np.savez(folder / "9.npz", logits=np.eye(3)[TRUTH], labels=TRUTH, ids=np.arange(100, 160).astype(str))


def _twin(folder: Path) -> None:
    (folder / "9.npz").write_bytes((folder / "0.npz").read_bytes())


def _pickle(folder: Path) -> None:
    (folder / "9.npz").write_bytes(b"\x80\x04K\x01.")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_shorter, "9.npz: has 50 rows"),
        (_other_labels, "9.npz: its labels are not those of"),
        (_other_classes, "9.npz: 4 classes, and 3 in the first file"),
        (_other_ids, "9.npz: its id '100' is none of"),
        (_twin, "are the same, byte by byte"),
        (_pickle, "9.npz"),
    ],
)
def test_other_predictions_are_said_in_a_line(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    dense, pruned = _nets(tmp_path / "dense", DENSE), _nets(tmp_path / "pruned", PRUNED)
    damage(pruned)
    with pytest.raises(UserError, match=told) as found:
        main([str(dense), "--against", str(pruned), "--outputs", str(tmp_path / "out")])
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_too_few_or_none_are_said(tmp_path: Path) -> None:
    dense, one = _nets(tmp_path / "dense", DENSE), _nets(tmp_path / "one", PRUNED[:1])
    (tmp_path / "empty").mkdir()
    for others, told in (
        ([str(one)], "1 file of the compressed nets; a population is of two"),
        ([str(tmp_path / "empty")], "no predictions"),
        ([str(tmp_path / "*.none")], "no predictions"),
        ([str(one / "0.npz"), str(one / "*.npz")], "0.npz is named twice"),
    ):
        with pytest.raises(UserError, match=told):
            main([str(dense), "--against", *others, "--outputs", str(tmp_path / "out")])
    with pytest.raises(UserError, match="--limit does nothing beside --against"):
        main([str(dense), "--against", str(dense), "--limit", "5"])


def test_labels_are_needed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for k in range(2):
            np.save(tmp_path / name / f"{k}.npy", np.eye(3)[TRUTH] + k)
    with pytest.raises(UserError, match="holds no labels"):
        main(
            [str(tmp_path / "one"), "--against", str(tmp_path / "other"), "--outputs", str(tmp_path / "out")]
        )


def test_a_table_goes_with_a_folder(tmp_path: Path) -> None:
    dense = _nets(tmp_path / "dense", DENSE)
    (tmp_path / "t.csv").write_text("path,a\n")
    with pytest.raises(UserError, match="goes with a folder of pictures"):
        main([str(dense), "--against", str(dense), "--attributes", str(tmp_path / "t.csv")])
    with pytest.raises(UserError, match="goes with a folder of pictures"):
        main([str(dense / "0.npz"), str(dense / "1.npz"), "--attributes", str(tmp_path / "t.csv")])
