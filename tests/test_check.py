"""``compressbench check``: a folder with good parts and bad ones of every sort, each of these named in its line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.bench import Bench
from compressbench.checking.criteria import check_criterion, check_scores
from compressbench.checking.exits import check_exit_criterion, check_exit_head
from compressbench.checking.probes import check_metric, check_probe
from compressbench.checking.states import check_json, check_stage, check_state
from compressbench.checking.targets import check_target
from compressbench.checking.tasks import check_dataset, check_task
from compressbench.checking.traces import Late, Unfit, differs, seeded, twice, within
from compressbench.cli.main import run
from compressbench.data.dataset import Dataset
from compressbench.hardware.target import Lowered, Timing, Unsupported
from compressbench.pruning import masked
from compressbench.records import Metric
from compressbench.state import State
from conftest import Command

OWN = '''
import random, time
from dataclasses import dataclass
import numpy as np
import torch
from compressbench.hardware.target import Lowered, Timing
from compressbench.models.build import module_of
from compressbench.records import Metric

def good(given):
    return {n: w.abs() for n, w in given.weights.items()}

def global_draw(given):
    return {n: torch.rand(w.shape) for n, w in given.weights.items()}

def flat(given):
    return {n: w.abs().flatten() for n, w in given.weights.items()}

def divided(given):
    return {n: w / (w - w) for n, w in given.weights.items()}

def in_place(given):
    return {n: w.abs_() for n, w in given.weights.items()}

def forgetful(given):
    raise KeyError("nothing")

def slow(given):
    time.sleep(30)

def leaves(given):
    raise SystemExit(3)

@dataclass(frozen=True)
class Sure:
    how: str = "good"

    def measure(self, subject, reference, bench):
        yield Metric("sure", 1.0, "" if self.how == "unit" else "%")
        if self.how == "twice":
            yield Metric("sure", 2.0, "%")
        if self.how == "trains":
            with torch.no_grad():
                for p in subject.module.parameters():
                    p.add_(1)

@dataclass(frozen=True)
class Noise:
    how: str = "good"

    def describe(self):
        return "some noise"

    def apply(self, state, bench):
        split = "test" if self.how == "peeks" else "train"
        level = 1e-3 * float(bench.feed(split)["images"].float().mean()) / 255
        if self.how == "prints":
            print("a line")
        draw = bench.generator("noise")
        made = {n: state.weights[n] + level * torch.randn(state.weights[n].shape, generator=draw)
                for n in state.facts["prunable"]}
        return state.with_groups(weights={**state.weights, **made})

@dataclass(frozen=True)
class Slow:
    how: str = "good"
    batches: tuple = (1,)

    def lower(self, view):
        if self.how == "raises":
            raise RuntimeError("no such device")
        return Lowered(view.fast, view.bench.task.encode(view.bench.feed("test").head(4)), "by hand")

    def time(self, lowered, batch):
        return [Timing(batch, (0.001,)) for _ in (lowered[:1] if self.how == "one" else lowered)]
'''  # fmt: skip
CRITERION = "# {0}: x\ndefaults: [_prune, _self_]\ncriterion: {{_target_: check_own.{0}, _partial_: true}}\n"
OTHER = "# {0}: x\n_target_: check_own.{1}\nhow: {0}\n"
RECIPE = """# {0}: x
defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - /stage/prune@stages.cut: magnitude
  - override /model@_global_.model: lenet_300_100
  - override /dataset@_global_.dataset: digits
  - _self_
name: {0}
stages:
  dense: {{length: 2it, batch_size: 32}}
  cut: {{from: {1}}}
compare: {{reference: dense, series: {{cut: cut}}}}
"""
FILES = {
    **{f"stage/prune/{n}": CRITERION.format(n) for n in
       ("good", "global_draw", "flat", "divided", "in_place", "forgetful", "slow", "leaves")},
    **{f"probe/{n}": OTHER.format(n, "Sure") for n in ("good", "twice", "unit", "trains")},
    **{f"stage/noise/{n}": OTHER.format(n, "Noise") for n in ("good", "peeks", "prints")},
    **{f"target/{n}": OTHER.format(n, "Slow") for n in ("good", "raises", "one")},
    "recipe/fine": RECIPE.format("fine", "dense"),
    "recipe/astray": RECIPE.format("astray", "dens"),
    "probe/elsewhere": "# elsewhere: x\n_target_: os.system\n",
    "model/tiny_own": "# tiny_own: x\nname: tiny_own\n"
    "build: {_target_: tiny.Tiny, shape: '@shape', classes: '@classes'}\n",
}  # fmt: skip


def line_of(words: str) -> int:
    """Where something stands in the user's file."""
    return next(n for n, line in enumerate(OWN.splitlines(), 1) if words in line)


WRONG = {
    "stage/prune/global_draw": "two calls differ in scores.conv1.weight: it draws from the global generator of torch; "
    "draw from given.generator(name)",
    "stage/prune/flat": "the scores of conv1.weight have the shape (144,); that of the weight is wanted, (16, 1, 3, 3)",
    "stage/prune/divided": "144 of 144 are not finite",
    "stage/prune/in_place": "changes what it is given in place (state: tensors.weights.conv1.weight)",
    "stage/prune/forgetful": f"raises KeyError: 'nothing' (check_own.py, line {line_of('KeyError')})",
    "stage/prune/slow": "takes longer than 8 s; --seconds allows more",
    "stage/prune/leaves": "ends the process (SystemExit: 3)",
    "probe/twice": "yields sure twice",
    "probe/unit": "sure: no unit",
    "probe/trains": "changes weights of a view's module",
    "probe/elsewhere": "target os.system is not allowed",
    "stage/noise/peeks": "reads the test split",
    "stage/noise/prints": "prints 'a line'",
    "target/raises": f"raises RuntimeError: no such device (check_own.py, line {line_of('no such device')})",
    "target/one": "a list of as many Timings is wanted",
    "recipe/astray": "there is no state 'dens'; did you mean dense?",
}
GOOD = sorted(set(FILES) - set(WRONG))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.CompletedProcess[str]]:
    """The verb once over the whole folder."""
    root = tmp_path_factory.mktemp("check")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "check_own.py").write_text(OWN)
        for name, text in FILES.items():
            path = root / "mine" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(
                ["check", "--config-dir", "mine", "--trust", "check_own", "--trust", "tiny", "--seconds", "8"]
            )
        yield subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines()[:-1])
    assert len(found) == len(done.stdout.splitlines()) - 1, done.stdout
    return found


@pytest.mark.slow
def test_every_part_has_a_line_and_the_sum_stands_below(done: Any) -> None:
    assert set(lines(done)) == set(FILES), done.stderr
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"{len(FILES)} tried: {len(GOOD)} ok, {len(WRONG)} not"


@pytest.mark.parametrize("name", GOOD)
def test_good_parts_are_ok(name: str, done: Any) -> None:
    assert lines(done)[name].startswith("ok")


@pytest.mark.parametrize("name", WRONG)
def test_bad_parts_are_named_with_the_reason(name: str, done: Any) -> None:
    assert WRONG[name] in lines(done)[name]


def test_nothing_is_left_behind_and_only_what_is_named_is_tried(
    done: Any, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine/evaluation").mkdir(parents=True)
    (tmp_path / "mine/evaluation/few.yaml").write_text(
        "# few: x\ndefaults:\n  - /probe@probes.accuracy: accuracy\n"
    )
    (tmp_path / "mine/probe").mkdir()
    (tmp_path / "mine/probe/broken.yaml").write_text("# broken: x\n_target_: nowhere.Nothing\n")
    found = command("check", "--config-dir", "mine", "evaluation/few")
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "1 tried: 1 ok, 0 not")
    assert not (tmp_path / "outputs").exists()
    shown = command("check", "--config-dir", "mine", "probe/broken", "--debug")
    assert shown.returncode == 1
    assert "nowhere.Nothing is not allowed" in shown.stdout.splitlines()[0]
    assert "Traceback (most recent call last)" in shown.stdout


def test_what_a_yaml_leaves_open_is_set(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine/stage/shrink/half.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# half: x\ndefaults: [blocks, _self_]\nfraction: ???\n")
    call = ("check", "--config-dir", "mine", "stage/shrink/half")
    found = command(*call)
    assert found.returncode == 1
    assert found.stdout.startswith(
        "stage/shrink/half: fraction: ??? is no value to try it with; --set fraction=VALUE"
    )
    assert command(*call, "--set", "fraction=0.4").stdout.startswith("stage/shrink/half: ok")
    assert "fraction: 1.4 is not" in command(*call, "--set", "fraction=1.4").stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "required: --config-dir"),
        (("--config-dir", "nowhere"), "nowhere is no folder"),
        (("--config-dir", "empty"), "holds no part"),
        (("--config-dir", "mine", "probe/god"), "there is no 'probe/god' in"),
        (("--config-dir", "mine", "trust=[me]"), "here it is --trust me"),
        (("--config-dir", "mine", "--seconds", "0"), "a number above 0"),
        (("--config-dir", "mine", "--set", "a=1"), "--set KEY=VALUE is for one part"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], words: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine/probe").mkdir(parents=True)
    (tmp_path / "mine/probe/good.yaml").write_text("# good: x\n_target_: a.B\n")
    found = command("check", *args)
    assert found.returncode == 2
    assert words in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


# Pure functions ------------------------------------------------------------------------------------------------------


def test_what_differs_is_named() -> None:
    one = {"a": torch.tensor([1.0, float("nan")]), "b": [np.array([1, 2]), {"c": float("nan")}]}
    same = {"a": torch.tensor([1.0, float("nan")]), "b": [np.array([1, 2]), {"c": float("nan")}]}
    assert differs(one, same) == ""
    assert differs(one, {**same, "a": torch.tensor([1.0, 2.0])}) == "a"
    assert differs(one, {**same, "a": one["a"].double()}) == "a"
    assert differs(one, {**same, "b": [np.array([1, 3]), {"c": float("nan")}]}) == "b.0"
    assert differs(one, {**same, "b": [np.array([1, 2])]}) == "the length of b"
    assert differs(one, {"a": one["a"]}) == "the names of what it gives"
    assert differs(Metric("a", 1.0, "%"), Metric("a", 2.0, "%")) == "value"


@pytest.mark.parametrize(
    ("draw", "which"),
    [
        (lambda: float(torch.rand(())), "torch"),
        (lambda: float(np.random.rand()), "numpy.random"),
        (lambda: __import__("random").random(), "random"),
    ],
)
def test_a_draw_from_a_global_generator_is_told(draw: Callable[[], float], which: str) -> None:
    with pytest.raises(Unfit, match=f"draws from the global generator of {which}; draw from mine"):
        twice(draw, "mine")
    counted = iter(range(9))
    with pytest.raises(Unfit, match="no global generator was used"):
        twice(lambda: next(counted), "mine")
    assert twice(lambda: 3, "mine") == 3


def test_global_generators_are_afterwards_as_they_were() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    with seeded(1):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


def stubborn() -> None:
    for _ in range(3):
        with contextlib.suppress(Exception):
            time.sleep(5)


def test_what_takes_too_long_is_cut_short_though_it_catches_errors() -> None:
    began = time.monotonic()
    with pytest.raises(Late), within(0.2):
        stubborn()
    assert time.monotonic() - began < 4
    with within(0.2):
        pass
    time.sleep(0.3)


@dataclasses.dataclass(frozen=True)
class Makes:
    """A stage that is a function."""

    make: Callable[[State, Bench], Any]

    def apply(self, state: State, bench: Bench) -> Any:
        return self.make(state, bench)


def first(state: State) -> str:
    return next(iter(state.facts["prunable"]))


def with_weight(state: State, change: Callable[[torch.Tensor], Any]) -> State:
    return state.with_groups(weights={**state.weights, first(state): change(state.weights[first(state)])})


def unheld(state: State, bench: Bench) -> State:
    mask = torch.zeros_like(state.weights[first(state)], dtype=torch.bool)
    return state.with_groups(masks={first(state): mask})


STAGES: dict[str, tuple[Callable[[State, Bench], Any], str]] = {
    "no state": (lambda s, b: s.weights, "a State is wanted"),
    "nan": (lambda s, b: with_weight(s, lambda w: w * float("nan")), "values that are not finite"),
    "array": (lambda s, b: with_weight(s, lambda w: w.numpy()), "is a ndarray; tensors are wanted"),
    "graph": (lambda s, b: with_weight(s, lambda w: w.clone().requires_grad_()), "requires a gradient"),
    "mask": (unheld, "aren't 0 where the mask is False"),
    "mask of floats": (
        lambda s, b: s.with_groups(masks={first(s): torch.ones_like(s.weights[first(s)])}),
        r"torch.bool of",
    ),
    "mask of nothing": (lambda s, b: s.with_groups(masks={"x": torch.ones(1)}), "masks: x is no weight"),
    "fact": (lambda s, b: s.with_facts(seen=torch.ones(1)), r"facts.seen is a Tensor"),
    "numbered": (lambda s, b: s.with_facts(seen={1: 2}), "the name 1 is no text"),
    "in place": (lambda s, b: with_weight(s, lambda w: w.mul_(1.5)), "changes what it is given in place"),
    "data": (
        lambda s, b: (b.feed("train")["images"].add_(1), s)[1],
        r"changes what it is given in place \(data: train.columns.images",
    ),
    "validation is its own": (lambda s, b: (b.feed("validation"), b.feed("test"), s)[2], "reads the test split"),
    "global": (
        lambda s, b: with_weight(s, lambda w: w + torch.randn(w.shape)),
        r"differ in tensors.weights.* of torch; draw from bench.generator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_breaks_the_rule(name: str, place: Bench, dense: State, tmp_path: Path) -> None:
    make, words = STAGES[name]
    copied = dense.with_groups(weights={n: w.clone() for n, w in dense.weights.items()})
    here = dataclasses.replace(place, dataset=copy_of(place.dataset), feeds={})
    with pytest.raises(Unfit, match=words):
        check_stage(Makes(make), copied, here, tmp_path)


def copy_of(dataset: Dataset) -> Dataset:
    splits = dataset.splits.items()
    copies = {n: {c: v.copy() for c, v in s.columns.items()} for n, s in splits}
    return dataclasses.replace(
        dataset, splits={n: dataclasses.replace(s, columns=copies[n]) for n, s in splits}
    )


def test_a_sound_stage_passes_and_gives_its_state(place: Bench, dense: State, tmp_path: Path) -> None:
    def half(state: State, bench: Bench) -> State:
        assert len(bench.feed("train")) + len(bench.feed("validation")) == 1000
        assert "test" in bench.dataset.splits
        shapes = {n: state.weights[n].shape for n in state.facts["prunable"]}
        return masked(
            state, {n: torch.rand(s, generator=bench.generator(n)) < 0.5 for n, s in shapes.items()}
        )

    after = check_stage(Makes(half), dense, place, tmp_path)
    assert 0.3 < after.facts["density"] < 0.7
    check_state(after)
    with pytest.raises(Unfit, match=r"has no apply"):
        check_stage(object(), dense, place, tmp_path)


def test_what_json_can_hold() -> None:
    check_json({"a": [1, (2.5, None, True, "x")]}, "facts")
    with pytest.raises(Unfit, match=r"facts.a\[1\] is a float64"):
        check_json({"a": [1, np.float64(2)]}, "facts")


def test_scores_want_every_weight() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    check_scores({"a": torch.ones(2, 3), "b": torch.zeros(4)}, weights)
    for scores, words in (
        (None, "returned NoneType"),
        ({"a": torch.ones(2, 3)}, "no scores for b"),
        ({**weights, "c": torch.ones(1)}, "scores for c"),
        ({**weights, "b": [1, 2, 3, 4]}, "are a list"),
        ({**weights, "b": torch.tensor([1, 2, 3, float("inf")])}, "1 of 4 are not finite"),
    ):
        with pytest.raises(Unfit, match=words):
            check_scores(scores, weights)


def peeking(given: Any) -> dict[str, torch.Tensor]:
    given.bench.feed("test")
    return {n: w.abs() for n, w in given.weights.items()}


def test_a_criterion_that_looks_at_test_examples(place: Bench, dense: State) -> None:
    with pytest.raises(Unfit, match="reads the test split"):
        check_criterion({"_target_": "test_check.peeking", "_partial_": True}, dense, place)


METRICS: list[tuple[Any, str]] = [
    (3.0, "yields a float"),
    (Metric("", 1.0, "%"), "a word such as top1"),
    (Metric("a", None, "%"), "None without a note"),
    (Metric("a", torch.ones(()), "%"), "the value is a Tensor"),  # type: ignore[arg-type]
    (Metric("a", float("nan"), "%"), "is no finite number"),
    (Metric("top1", 101.0, "%"), "is not within 0 and 100 %"),
    (Metric("top1", 1.0, "points"), "compressbench has this metric in '%'"),
    (Metric("a", 1.0, "%", "guessed"), "the basis is 'guessed'"),
    (Metric("a", 1.0, "%", n=-1), "n is -1"),
    (Metric("a", 1.0, "%", group=b"x"), "can't be stored as JSON"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("metric", "words"), METRICS)
def test_a_metric_that_is_not_of_the_declared_form(metric: Any, words: str) -> None:
    check_metric(Metric("top1", 50.0, "%", n=3))
    check_metric(Metric("mine", None, "1", note="why"))
    with pytest.raises(Unfit, match=words):
        check_metric(metric)


@dataclasses.dataclass(frozen=True)
class Tells:
    """A probe that is a function."""

    tell: Callable[[Any, Any, Bench], Any]

    def measure(self, subject: Any, reference: Any, bench: Bench) -> Any:
        return self.tell(subject, reference, bench)


def one(value: float = 1.0) -> list[Metric]:
    return [Metric("mine", value, "1")]


PROBES: dict[str, tuple[Callable[[Any, Any, Bench], Any], str]] = {
    "nothing": (lambda s, r, b: None, "measure returned NoneType"),
    "empty": (lambda s, r, b: [], "yields nothing"),
    "global": (lambda s, r, b: one(float(torch.rand(()))), "two calls differ in mine"),
    "trains": (lambda s, r, b: (s.module.train(), one())[1], "in training mode"),
    "changes what is said": (lambda s, r, b: (s.log_probs.mul_(2), one())[1], "changes a view's log_probs"),
    "changes the fast module": (
        lambda s, r, b: ([p.data.add_(1) for p in r.fast.parameters()], one())[1], "changes a view's",
    ),
    "changes the state": (
        lambda s, r, b: (s.state.weights[first(s.state)].mul_(2), one())[1], "in place",
    ),
    "now and then": (
        lambda s, r, b: [Metric("a" if torch.rand(()) < 0.5 else "b", 1.0, "1"), *one(float(torch.rand(())))],
        "two calls differ in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_that_breaks_the_rule(name: str, place: Bench, dense: State) -> None:
    tell, words = PROBES[name]
    copied = dense.with_groups(weights={n: w.clone() for n, w in dense.weights.items()})
    with pytest.raises(Unfit, match=words):
        check_probe(Tells(tell), copied, dense, place)


def test_a_timing_may_differ_from_call_to_call(place: Bench, dense: State) -> None:
    found = check_probe(
        Tells(lambda s, r, b: [Metric("took", time.perf_counter(), "s"), *one()]), dense, dense, place
    )
    assert [m.name for m in found] == ["took", "mine"]
    with pytest.raises(Unfit, match="has no measure"):
        check_probe(object(), dense, dense, place)


@dataclasses.dataclass(frozen=True)
class Device:
    """A target of functions."""

    lowered: Callable[[Any], Any]
    timed: Callable[[Any, int], Any]
    batches: Any = (1, 2)

    def lower(self, view: Any) -> Any:
        return self.lowered(view)

    def time(self, lowered: Any, batch: int) -> Any:
        return self.timed(lowered, batch)


def runs(view: Any, rows: int = 4, words: str = "by hand") -> Lowered:
    return Lowered(
        lambda x: view.module(x), view.bench.task.encode(view.bench.feed("test").head(rows)), words
    )


def told(lowered: Any, batch: int, seconds: float = 0.1) -> list[Timing]:
    return [Timing(batch, (seconds,)) for _ in lowered]


TARGETS: dict[str, tuple[Any, str]] = {
    "no target": (object(), "has no lower"),
    "batches": (Device(runs, told, (0,)), "batches are"),
    "neither": (Device(lambda v: v.module, told), "lower returned"),
    "no words": (Device(lambda v: runs(v, words=""), told), "no runtime"),
    "few": (Device(lambda v: runs(v, 1), told), "too few inputs"),
    "why": (Device(lambda v: Unsupported(""), told), "without why"),
    "no time": (Device(runs, lambda x, b: told(x, b, 0.0)), "positive numbers are wanted"),
    "no list": (Device(runs, lambda x, b: told(x, b)[0]), "a list of as many"),
    "other batch": (Device(runs, lambda x, b: told(x, 7)), "says batch 7"),
    "dreams": (
        Device(runs, lambda x, b: [Timing(b, (time.perf_counter(),), basis="modelled") for _ in x]),
        "modelled timings differ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_breaks_the_rule(name: str, place: Bench, dense: State) -> None:
    target, words = TARGETS[name]
    with pytest.raises(Unfit, match=words):
        check_target(target, dense, dense, place)


def test_a_target_that_runs_or_says_why_not(place: Bench, dense: State) -> None:
    assert check_target(Device(runs, told), dense, dense, place) == "by hand"
    absent = Device(lambda v: Unsupported("no such card"), told)
    assert check_target(absent, dense, dense, place) == "can't run here: no such card"


# A task ---------------------------------------------------------------------------------------------------------------


def spelt() -> Dataset:
    from compressbench.data.load import load

    read, task = ({"_target_": f"test_tasks.{name}"} for name in ("sentences", "tokens"))
    return load({"name": "sentences", "read": read, "task": task}, ["test_tasks"])


@dataclasses.dataclass(frozen=True)
class Altered:
    """A task in which some answers are others."""

    task: Any
    others: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in self.others:
            if self.others[name] is AttributeError:
                raise AttributeError(name)
            return self.others[name]
        return getattr(self.task, name)


TASKS: dict[str, tuple[dict[str, Any], str]] = {
    "lacking": ({"feeding": AttributeError}, "has no feeding"),
    "metric": ({"metric": "top 1"}, "metric is 'top 1'"),
    "inputs": ({"inputs": ("ids",)}, "inputs names 1"),
    "facts": ({"facts": lambda: {"classes": 3}}, "begin with @"),
    "identity": ({"identity": lambda: (np.int64(3),)}, r"identity\(\)\[0\] is a int64"),
    "global": (
        {"encode": lambda e, g=None: (torch.rand(len(e), 9), torch.rand(len(e), 9))},
        "two calls differ in 0: .* torch; draw from what variation gives",
    ),
    "variation": ({"variation": lambda n, g: torch.rand(n, generator=g)}, "a tuple of tensors on the CPU is wanted"),
    "no tuple": ({"encode": lambda e, g=None: torch.zeros(len(e), 9)}, "a tuple of tensors is wanted"),
    "blank": ({"blank": lambda n: (torch.zeros(n, 9), torch.ones(n, 9))}, r"blank\(3\): ids is torch.float32"),
    "drawn": (
        {"drawn": lambda n, g: (torch.zeros(n, 9, dtype=torch.int64), torch.ones(n, 9))}, "the same for every generator",
    ),
    "varies": (
        {"varies": lambda: "no"}, "True or False",
    ),
    "loss": ({"loss": lambda o, y: o.logits.sum(1)}, "a finite tensor without dimensions"),
    "no gradient": ({"loss": lambda o, y: o.logits.detach().mean()}, "no gradient"),
    "right": ({"right": lambda a, y: (a == y).float()}, "right gives torch.float32"),
    "answers": ({"answers": lambda o: o.logits.argmax()}, "a row an example"),
    "nan": ({"answers": lambda o: torch.zeros(len(o.logits), dtype=torch.int64)}, "are right where the logits are NaN"),
    "log_probs": (
        {"log_probs": lambda o, y: dataclasses.replace(TOKENS().log_probs(o, y), log_probs=o.logits)}, "don't sum to 1",
    ),
    "owners": (
        {"log_probs": lambda o, y: dataclasses.replace(TOKENS().log_probs(o, y), owners=y + 99)}, "owners are",
    ),
    "surface": ({"surface": lambda: None}, "surface"),
    "axes": ({"axes": {"ids": ("tokens",)}}, "names of dimensions by input, is wanted"),
    "texts": ({"texts": lambda e: {"text": ["one"]}}, "a text of each example"),
    "beside": ({"beside": lambda: {"t.json": "{}"}}, "file name: bytes"),
}  # fmt: skip


def TOKENS() -> Any:
    from test_tasks import Tokens

    return Tokens(("a", "b", "c"))


@pytest.fixture(scope="module")
def words() -> Dataset:
    return spelt()


def test_a_task_that_keeps_to_the_rule(words: Dataset, digits: Dataset) -> None:
    check_task(words)
    check_task(digits)
    assert check_dataset(spelt).fingerprint == words.fingerprint


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_breaks_the_rule(name: str, words: Dataset) -> None:
    others, said = TASKS[name]
    with pytest.raises(Unfit, match=said):
        check_task(dataclasses.replace(words, task=Altered(words.task, others)))


def test_a_data_set_that_is_another_each_time(words: Dataset) -> None:
    def drawn() -> Dataset:
        rows = np.random.permutation(100)
        return dataclasses.replace(words, splits={**words.splits, "train": words.splits["train"].take(rows)})

    with pytest.raises(Unfit, match=r"train.* numpy.random; draw from"):
        check_dataset(drawn)


def surest(said: Any) -> torch.Tensor:
    return said.logits.softmax(1).amax(1)


def least(said: Any) -> torch.Tensor:
    return -surest(said)


def among_all(said: Any) -> torch.Tensor:
    return surest(said) - surest(said).mean()


def of_the_first(said: Any) -> torch.Tensor:
    return said.logits.softmax(1)[:, 0]


def test_exit_criteria() -> None:
    def spec(name: str) -> dict[str, Any]:
        return {"_target_": f"test_check.{name}", "_partial_": True}

    check_exit_criterion(spec("surest"), ("test_check",))
    for name, said in (
        ("least", "less sure"),
        ("among_all", "depends on the others"),
        ("of_the_first", "the order of the classes"),
    ):
        with pytest.raises(Unfit, match=said):
            check_exit_criterion(spec(name), ("test_check",))


def test_exit_heads() -> None:
    def head(**settings: Any) -> dict[str, Any]:
        return {"_target_": "test_check.Head", **settings}

    check_exit_head(head(), ("test_check",))
    with pytest.raises(Unfit, match=r"gives \(5, 11\) for 5 examples of 10 classes"):
        check_exit_head(head(more=1), ("test_check",))


class Head(torch.nn.Module):
    """Means of channels, and a linear layer."""

    def __init__(self, shape: list[int], classes: int, more: int = 0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(shape[0], classes + more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean((2, 3)))


# The docs' examples --------------------------------------------------------------------------------------------------


def documented(page: str, root: Path) -> None:
    """Lays out the files that a page shows."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    found = re.findall(
        r"`((?:my\w+\.py)|(?:mine/[\w/]+\.yaml))`[^\n]*\n+```(?:python|yaml)\n(.*?)```", text, re.S
    )
    for name, content in found:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_the_task_in_the_docs(command: Command, tmp_path: Path) -> None:
    documented("own_data.md", tmp_path)
    (tmp_path / "mine/dataset/mine.yaml").unlink()
    (tmp_path / "mine/dataset/again.yaml").write_text(
        "# again: x\ndefaults: [words, _self_]\ntask: {_target_: mywords.Sentences, _partial_: false}\n"
    )
    found = command("check", "--config-dir", "mine", "--trust", "mywords")
    said = lines(found)
    assert said["dataset/words"] == "ok (train 180, test 90, validation 60; up to 9 words)"
    # by hand: 20 words of 16, two layers of 32 and their biases, three answers
    assert 20 * 16 + 16 * 32 + 32 + 32 * 32 + 32 + 32 * 3 + 3 == 2019
    assert said["model/reads"] == "ok (2,019 parameters on words)"
    assert "classes and inputs of the Sentences are no tuples of names" in said["dataset/again"]


@pytest.mark.slow
def test_the_parts_in_the_docs(command: Command, tmp_path: Path) -> None:
    documented("own_criterion.md", tmp_path)
    modules = sorted(p.stem for p in tmp_path.glob("my*.py"))
    assert modules == ["myprobe", "mypruning", "mystages", "mytraining"]
    found = command("check", "--config-dir", "mine", *(w for m in modules for w in ("--trust", m)))
    assert found.returncode == 0, found.stdout
    assert {"stage/prune/lamp", "stage/round/bits", "probe/how_sure", "stepper/signed"} <= set(lines(found))
