"""What each series of a plan is, in a line of its stages' own words."""

from __future__ import annotations

from dataclasses import dataclass

from compressbench.runs.in_a_line import in_a_line
from compressbench.runs.plan import Measure, Node, Plan


@dataclass(frozen=True)
class Says:
    words: str

    def describe(self) -> str:
        return self.words


def node(name: str, parent: str | None, words: str) -> Node:
    return Node(name, {}, Says(words), parent, (), 0, f"key of {name}")


def plan() -> Plan:
    nodes = (
        node("dense", None, "train 4ep"),
        node("l1.prune", "dense", "prune 0.2"),
        node("l1.train", "l1.prune", "train 1ep"),
        node("l2.prune", "l1.train", "prune 0.2"),
        node("l2.train", "l2.prune", "train 1ep"),
        node("student", None, "train small"),
    )
    measures = (
        Measure("dense", "final", 0, "dense", "dense"),
        Measure("ticket", "final", 1, "l1.train", "dense"),
        Measure("ticket", "final", 2, "l2.train", "dense"),
        Measure("student", "final", 0, "student", "dense"),
        Measure("ticket", "at the start", 3, "dense", "dense"),
        Measure("pictures", "at the start", 0, "l1.prune", "dense"),
        Measure("crowd", "populations", 0, "dense", "dense", None, ("dense",), ("dense",)),
    )
    return Plan(nodes, measures)


def test_a_series_is_told_from_dense_on_and_what_repeats_is_counted():
    found = {d.series: d for d in in_a_line(plan())}
    assert set(found) == {"dense", "ticket", "student", "pictures"}
    assert found["dense"].line == "train 4ep"
    assert found["student"].line == "train small"
    assert found["ticket"].line == "from dense: prune 0.2 ×2, then train 1ep ×2 (2 states; this is the last)"
    assert found["ticket"].keys == ("key of l1.train", "key of l2.train")


def test_another_moment_s_states_tell_nothing_of_a_series_unless_it_has_no_others():
    found = {d.series: d for d in in_a_line(plan())}
    assert "key of dense" not in found["ticket"].keys
    assert found["pictures"].line == "from dense: prune 0.2"
