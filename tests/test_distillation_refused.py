"""Distillation that can't be is one line, before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from cases_distillation import (  # noqa: F401
    OWN,
    by,
    everything,
    other_classes,
    student,
    students,
    taught,
    teacher,
    training,
    untrained,
    with_states,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.stages.transfer import Few, Munge, Pictures
from compressbench.state import State
from compressbench.training import distillation, loop
from compressbench.training.online import online
from conftest import Command


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature: 0 is not a number above 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"temperature": "4"}, "temperature: '4'"),
        ({"share": 1.5}, r"share: 1.5 is not in \[0, 1\]"),
        ({"share": -0.1}, "share: -0.1"),
        ({"share": True}, "share: True"),
    ],
)
def test_settings_out_of_range_are_one_line(taught: Bench, settings: dict, message: str) -> None:
    for build in (
        lambda: distillation.distill(taught, ("teacher",), **settings),
        lambda: distillation.mimic(taught, ("teacher",), {"layer1": "layer1"}, **settings),
    ):
        with pytest.raises(UserError, match=message) as told:
            build()
        assert "\n" not in str(told.value)


def test_online_refuses_in_one_line(place: Bench, student: State) -> None:
    with pytest.raises(UserError, match="temperature: 0 is not a number above 0"):
        online(place, temperature=0)
    with pytest.raises(UserError, match="weight: -1 is not a number of 0 or more"):
        online(place, weight=-1)
    with pytest.raises(UserError, match="objective: online distillation wants a model of several students"):
        training("1it", **by("online")).apply(student, place)


def test_a_teacher_with_other_classes_is_one_line(place: Bench, student: State) -> None:
    bench = with_states(place, teacher=other_classes(place))
    for objective in (by("distill"), by("mimic", points={"layer1": "layer1"}), by("distill", share=0.0)):
        with pytest.raises(UserError, match="teacher: it has 7 outputs an example, the student 10"):
            training("1it", **objective).apply(student, bench)


def test_examples_without_a_label_need_a_teacher(place: Bench, student: State, students: State) -> None:
    few = Few(10, unlabelled=True).apply(student, dataclasses.replace(place, name="few"))
    bench = with_states(place, few=few)
    smoothing = {"_target_": "compressbench.training.objectives.smoothed", "_partial_": True}
    for state, objective in ((student, {}), (student, {"objective": smoothing}), (students, by("online"))):
        with pytest.raises(
            UserError, match="objective: 890 of the 900 examples have no label; a teacher can"
        ):
            training("1it", data="few", **objective).apply(state, bench)
    with pytest.raises(UserError, match="data: other carries no data set; a stage such as data/few"):
        training("1it", data="other").apply(student, with_states(place, other=student))
    with pytest.raises(UserError, match="data: other carries no data set"):
        Munge(data="other").apply(student, with_states(place, other=student))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Few(0), "labels: 0 leaves nothing to train on"),
        (lambda: Few(-1, unlabelled=True), "labels: -1"),
        (lambda: Munge(p=1.1), r"p: 1.1 is not in \[0, 1\]"),
        (lambda: Munge(p=float("nan")), "p: nan"),
        (lambda: Munge(s=0), "s: 0 is not above 0"),
        (lambda: Munge(s=float("nan")), "s: nan"),
        (lambda: Munge(copies=-1), "copies: -1 leaves no example"),
        (lambda: Munge(copies=0, keep=False), "copies: 0 leaves no example"),
        (lambda: Pictures("/nowhere/at/all").files(), "root: there is no folder /nowhere/at/all"),
    ],
)
def test_transfer_stages_refuse_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        make()
    assert "\n" not in str(told.value)


def test_more_labels_than_there_are_is_one_line(place: Bench, student: State) -> None:
    with pytest.raises(UserError, match="labels: 901 is more than the 900 examples with a label"):
        Few(901).apply(student, place)


STAGE = "compressbench.stages"


def added(stage: str, settings: str) -> str:
    """An override that puts one more stage at the end of a recipe."""
    return f"+recipe.stages.x={{_target_:{STAGE}.{stage},{settings}}}"


KD, PKD = "recipe.stages.prune_kd", "recipe.stages.pkd"
PLANNED = [
    (f"{KD}.objective.temperature=0", f"{KD}.objective.temperature: 0 is not a number above 0"),
    (f"{KD}.objective.temperature=nan", f"{KD}.objective.temperature: nan"),
    (f"{KD}.objective.share=1.5", f"{KD}.objective.share: 1.5 is not in [0, 1]"),
    (f"{KD}.objective.teacher=[]", f"{KD}.objective.teacher: at least one state is wanted"),
    (
        f"{KD}.objective.teacher=[dense,desne]",
        f"{KD}.objective.teacher: there is no state 'desne'; did you mean dense",
    ),
    (
        f"{KD}.objective.distance=kll",
        f"{KD}.objective.distance: there is no 'kll' in distances; did you mean kl",
    ),
    (
        f"{KD}.objective.labels=shufled",
        f"{KD}.objective.labels: there is no 'shufled' in labels; did you mean shuffled",
    ),
    (
        f"{KD}.objective.labels=kd_rel",
        f"{KD}.objective.labels: compressbench.labels.kd_rel.kd_rel needs groups",
    ),
    (f"{PKD}.objective.feature=atention", "there is no 'atention' in features; did you mean attention"),
    (f"{PKD}.objective.beta=-1", f"{PKD}.objective.beta: -1 is not a number of 0 or more"),
    (f"++{PKD}.objective.point=layer1", f"{PKD}.objective: unknown key 'point'"),
    (f"{KD}.data=few", f"{KD}.data: there is no state 'few'"),
    (added("composite.Ensemble", "members:[]"), "recipe.stages.x.members: at least one state is wanted"),
    (added("composite.Take", "member:-1"), "recipe.stages.x: member: -1 is below 0"),
    (added("transfer.Munge", "p:2"), "recipe.stages.x: p: 2 is not in [0, 1]"),
    (added("transfer.Few", "labels:0"), "recipe.stages.x: labels: 0 leaves nothing to train on"),
]


@pytest.mark.parametrize(
    ("override", "words"), PLANNED, ids=[o.replace("recipe.stages.", "") for o, _ in PLANNED]
)
def test_bad_input_is_found_before_anything_is_trained(
    override: str, words: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("something was trained first")

    monkeypatch.setattr(loop, "train", forbidden)
    done = command("run", "recipe=loyalty_table", "scale=smoke", override)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "recipe.stages." in lines[0]


def test_a_recipe_that_distils_is_planned_with_all_its_teachers() -> None:
    """The key of a student hangs on every teacher's, and on the data set's."""
    from compressbench.cli.run import composed
    from compressbench.runs.plan import Context, make

    few = f"+recipe.stages.few={{_target_:{STAGE}.transfer.Few,from:init,labels:90}}"
    student = (
        "+recipe.stages.student={_target_:compressbench.stages.train.Train,from:init,length:2it,batch_size:8,lr:0.1,"
        "data:few,optimizer:{_target_:torch.optim.SGD,_partial_:true},"
        "objective:{_target_:compressbench.training.distillation.distill,_partial_:true,teacher:[dense,longer]}}"
    )

    def key(*more: str) -> tuple[str, tuple[str, ...]]:
        config = composed(["recipe=loyalty_table", "scale=smoke", few, student, *more])
        node = make(config["recipe"], 0, Context("", "cpu", 1)).node("student")
        return node.key, node.refs

    first, refs = key()
    assert set(refs) == {"dense", "longer", "few"}
    changes = ("recipe.stages.longer.lr=0.003", "recipe.stages.few.labels=91", "recipe.stages.dense.lr=0.09")
    assert len({first, *(key(c)[0] for c in changes)}) == 4
    assert key()[0] == first


def test_words_and_yaml_files_are_the_same() -> None:
    conf = OWN.parent / "conf"
    for folder, group in (("distances", "distance"), ("labels", "labels"), ("features", "feature")):
        words = {p.stem for p in (conf / group).glob("*.yaml")}
        assert words == set(everything(folder)), group
