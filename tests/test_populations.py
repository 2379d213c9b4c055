"""Populations: planned, trained through the store, asked once, kept in few bytes, and measured by hand-computed facts."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import statistics
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from compressbench.cli.run import composed
from compressbench.data.examples import Examples
from compressbench.errors import UserError
from compressbench.populations import Member, Population
from compressbench.probes.agreement import Agreement, modal
from compressbench.records import Metric, Record, Records, read_jsonl, write_jsonl
from compressbench.report.page import write_report
from compressbench.report.panels import conflicts, panels
from compressbench.report.sections.populations import population_tables
from compressbench.report.terminal import print_tables
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import Experiment, _check_populations, execute, prepare
from compressbench.runs.plan import make
from compressbench.runs.predictions import (
    LABELS,
    LOG_PROBS,
    checked_log_probs,
    packed_labels,
    predictions_key,
    unpacked_labels,
)
from compressbench.specs import trust
from compressbench.store import Damaged, Store
from compressbench.views import View
from test_contract import plain
from test_lasting import PRUNE, Listening
from test_plan import CONTEXT, RECIPE, changed, keys
from test_report import record

AGREEMENT = {"_target_": "compressbench.probes.agreement.Agreement"}
BOTH = {"dense": {"of": "dense", "seeds": 3}, "tickets": {"of": "level2.retrain", "seeds": 2}}


# --- the plan


def planned(populations: Any, seed: int = 0, **compare: Any):
    recipe = copy.deepcopy(RECIPE)
    recipe["compare"] |= {"populations": populations, **compare}
    return make(recipe, seed, CONTEXT)


def test_a_population_is_the_run_and_the_seeds_after_it() -> None:
    plan = planned(BOTH, seed=3)
    dense, tickets = plan.measures[-2:]
    assert (dense.series, dense.moment, dense.state, dense.order) == ("dense", "populations", "dense", 0)
    assert dense.members == dense.references == ("dense", "dense@seed4", "dense@seed5")
    assert tickets.members == ("level2.retrain", "level2.retrain@seed4")
    assert (tickets.references, tickets.reference) == (dense.members, "dense")
    own = {n.name: n.key for n in plan.nodes if n.seed == 3}
    assert own == keys(RECIPE, seed=3)
    for seed, count in ((4, 9), (5, 3)):  # two levels of three stages and dense's three; dense alone
        found = {n.local: n.key for n in plan.nodes if n.seed == seed}
        assert len(found) == count
        assert found.items() <= keys(RECIPE, seed=seed).items()


def test_the_floor_is_the_second_of_the_reference_population() -> None:
    without, alone = planned(None), planned(None, floor=True)
    assert [n.name for n in without.nodes] == [n.name for n in make(RECIPE, 0, CONTEXT).nodes]
    both = planned(BOTH, floor=True)
    floor = both.measures[1]
    assert (floor.series, floor.state, floor.members) == ("floor", "dense@seed1", ())
    assert both.measures[: len(alone.measures)] == alone.measures
    assert both.measures[-2].members[1] == floor.state
    assert len({n.name for n in both.nodes}) == len(both.nodes) == 13 + 9 + 3


def test_another_seed_is_another_net_of_the_same_stages_and_references() -> None:
    plan = planned(BOTH)
    node = plan.node("level2.rewind@seed1")
    assert (node.parent, node.refs, node.stage.to) == ("level2.prune@seed1", ("warm@seed1",), "warm@seed1")


def test_the_population_of_the_reference_comes_first() -> None:
    plan = planned({"tickets": BOTH["tickets"], "dense": BOTH["dense"], "gone": None})
    assert [(m.series, m.order) for m in plan.measures if m.members] == [("dense", 0), ("tickets", 1)]


@pytest.mark.parametrize(
    ("populations", "words"),
    [
        (5, "recipe.compare.populations: 5 is no mapping of names to populations"),
        ({"dense": {"of": "densa", "seeds": 3}}, "populations.dense.of: there is no state 'densa'; did you mean dense"),
        ({"dense": {"seeds": 3}}, "populations.dense.of: there is no state None"),
        ({"dense": {"of": ["dense"], "seeds": 3}}, r"there is no state \['dense'\]"),
        ({"dense": {"of": "dense"}}, "dense.seeds: None is not a whole number from 1 to 200"),
        ({"dense": {"of": "dense", "seeds": 0}}, "dense.seeds: 0 is not a whole number from 1 to 200"),
        ({"dense": {"of": "dense", "seeds": -3}}, "seeds: -3 is not a whole number"),
        ({"dense": {"of": "dense", "seeds": 10**9}}, "seeds: 1000000000 is not a whole number from 1 to 200"),
        ({"dense": {"of": "dense", "seeds": "three"}}, "seeds: 'three' is not a whole number"),
        ({"dense": {"of": "dense", "seeds": 3.0}}, r"seeds: 3\.0 is not a whole number"),
        ({"dense": {"of": "dense", "seeds": True}}, "seeds: True is not a whole number"),
        ({"dense": {"of": "dense", "seed": 3}}, "populations.dense: unknown key 'seed'; did you mean seeds"),
        ({"dense": "dense"}, "populations.dense: a mapping with of, seeds is wanted"),
        ({"floor": {"of": "dense", "seeds": 3}}, "populations.floor: this name is taken by the floor"),
        ({"cut": {"of": "level1.prune", "seeds": 3}}, "populations: none is of dense, the reference"),
    ],
)  # fmt: skip
def test_faults_are_one_clear_line(populations: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        planned(populations)
    assert "\n" not in str(error.value)


def test_more_states_than_anybody_means_are_refused() -> None:
    recipe = changed("stages/level/times", 100)
    recipe["compare"] = {"reference": "dense", "populations": {
        "dense": {"of": "dense", "seeds": 1}, "last": {"of": "level100.retrain", "seeds": 200},
    }}  # fmt: skip
    with pytest.raises(UserError, match="these are 60,297 states of other seeds, more than 20,000"):
        make(recipe, 0, CONTEXT)


def test_a_moment_of_that_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"moments\.populations: this name is taken"):
        planned(None, moments={"populations": {"reference": "dense"}})


# --- what is kept


@pytest.mark.parametrize(
    ("classes", "kind", "bytes_each"),
    [(10, torch.uint8, 1), (255, torch.uint8, 1), (256, torch.int16, 2), (40_000, torch.int32, 4)],
)  # fmt: skip
def test_labels_come_back_as_they_were(classes: int, kind: torch.dtype, bytes_each: int) -> None:
    labels = torch.tensor([0, classes - 1, -1, 3])
    packed = packed_labels(labels, classes)
    assert (packed.dtype, packed.element_size()) == (kind, bytes_each)
    assert unpacked_labels(packed, 4, classes).tolist() == [0, classes - 1, -1, 3]


def test_what_is_no_labels_of_these_data_is_damaged() -> None:
    for wrong in (
        torch.tensor([0, 1], dtype=torch.uint8),  # of other data
        torch.tensor([0, 1, 10], dtype=torch.uint8),  # no such class
        torch.tensor([0, 1, -2], dtype=torch.int16),
        torch.tensor([0.0, 1.0, 2.0]),
        torch.zeros(3, 1, dtype=torch.uint8),
    ):
        with pytest.raises(Damaged, match="no labels of 3 examples of 10 classes"):
            unpacked_labels(wrong, 3, 10)
    for wrong in (torch.zeros(3, 9).half(), torch.zeros(2, 10).half(), torch.zeros(3, 10)):
        with pytest.raises(Damaged, match="no log-probabilities of 3 examples of 10 classes"):
            checked_log_probs(wrong, 3, 10)
    assert checked_log_probs(torch.zeros(3, 10).half(), 3, 10).shape == (3, 10)


def test_a_key_is_of_the_state_the_split_the_task_and_the_surroundings() -> None:
    other = dataclasses.replace(CONTEXT, fingerprint="other data")
    found = [
        predictions_key("k", CONTEXT, LABELS),
        predictions_key("k", CONTEXT, LOG_PROBS),
        predictions_key("l", CONTEXT, LABELS),
        predictions_key("k", CONTEXT, LABELS, split="validation"),
        predictions_key("k", CONTEXT, LABELS, task="tokens"),
        predictions_key("k", other, LABELS),
    ]
    assert len(set(found)) == len(found)
    assert predictions_key("k", CONTEXT, LABELS) == found[0]


def test_three_hundred_labels_of_ten_thousand_examples_take_less_than_5_mb(tmp_path: Path) -> None:
    """Thirty models at ten settings, on the disk."""
    store, one = Store(tmp_path), np.random.default_rng(0).integers(0, 10, 10_000)
    for seed in range(3):
        store.save_predictions(str(seed), {LABELS: packed_labels(torch.from_numpy(one), 10)})
    assert store.usage().predictions == 3
    assert 100 * store.usage().prediction_bytes < 5_000_000
    on_disk = sum(p.stat().st_blocks * 512 for p in (tmp_path / "predictions").iterdir())
    assert 100 * on_disk < 5_000_000


def test_predictions_in_the_store(tmp_path: Path) -> None:
    store, kept = Store(tmp_path), {LABELS: torch.tensor([1, 2, 255], dtype=torch.uint8)}
    assert store.load_predictions("k") is None
    store.save_predictions("k", kept)
    store.save_predictions("l", {LABELS: torch.tensor([0, 0, 0], dtype=torch.uint8)})
    back = Store(tmp_path).load_predictions("k")
    assert back is not None
    assert list(back) == [LABELS]
    assert torch.equal(back[LABELS], kept[LABELS])
    assert list((tmp_path / "aside").iterdir()) == []
    path, other = (tmp_path / "predictions" / f"{k}.safetensors" for k in "kl")
    whole, theirs = path.read_bytes(), other.read_bytes()
    for content in (theirs, whole[:-1] + b"\x00", whole[:20], b"", whole.replace(b'"format', b'"tamrof')):
        path.write_bytes(content)
        with pytest.raises(Damaged):
            store.load_predictions("k")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Damaged):
        store.load_predictions("k")
    store.discard_predictions("k")
    path.mkdir()
    with pytest.raises(Damaged):
        store.load_predictions("k")
    store.save_predictions("k", kept)
    assert path.read_bytes() == whole


def test_prune_drops_old_predictions_but_not_those_that_a_plan_needs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("old", "new", "needed", "locked"):
        store.save_predictions(key, {LABELS: torch.zeros(100, dtype=torch.uint8)})
    long_ago = time.time() - 10 * 86400
    for key in ("old", "needed", "locked"):
        os.utime(tmp_path / "predictions" / f"{key}.safetensors", (long_ago, long_ago))
    size = (tmp_path / "predictions" / "old.safetensors").stat().st_size
    assert store.prune().predictions == 0
    with Store(tmp_path).needed(["needed"]), Store(tmp_path).lock("locked"):
        dropped = store.prune(older_than_days=5)
    assert (dropped.predictions, dropped.prediction_bytes) == (1, size)
    assert (dropped.states, dropped.results) == (0, 0)
    assert sorted(p.stem for p in (tmp_path / "predictions").iterdir()) == ["locked", "needed", "new"]


def _save_for_ever(root: str) -> None:
    store, value = Store(Path(root)), 0
    while True:
        store.save_predictions("k", {LABELS: torch.full((200_000,), value % 9, dtype=torch.uint8)})
        value += 1


def test_a_killed_process_leaves_whole_predictions_or_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    context = multiprocessing.get_context("fork")
    for wait in (0.02, 0.05, 0.09, 0.14, 0.2):
        worker = context.Process(target=_save_for_ever, args=(str(tmp_path),))
        worker.start()
        time.sleep(wait)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(20)
        found = store.load_predictions("k")
        assert found is None or len(set(found[LABELS].tolist())) == 1
    assert found is not None
    store.prune()
    assert list((tmp_path / "aside").iterdir()) == []
    assert store.load_predictions("k") is not None


# --- the probe


def population(*labels: list[int]) -> Population:
    def nothing() -> Tensor:
        raise AssertionError("nobody asked for log-probabilities")

    return Population(
        [Member("x", seed, lambda row=row: torch.tensor(row), nothing) for seed, row in enumerate(labels)]
    )


@dataclasses.dataclass
class Place:
    """A bench of three classes that knows the true labels."""

    truth: list[int]

    @property
    def task(self) -> Any:
        return type(
            "Task", (), {"classes": ("a", "b", "c"), "metric": "top1", "right": lambda self, x, y: x == y}
        )()

    def feed(self, split: str) -> Any:
        assert split == "test"
        return Examples({}, torch.tensor(self.truth), torch.arange(len(self.truth)))


def measured(subjects: Population, references: Population, truth: list[int]) -> dict[str, Metric]:
    return {m.name: m for m in Agreement().measure_many(subjects, references, Place(truth))}  # type: ignore[arg-type]


def test_modal_labels_and_ties_by_hand() -> None:
    # three of four, all alike, two of four, two of the three that answer, nobody answers, two against two
    labels = torch.tensor(
        [[0, 1, 0, -1, -1, 2], [0, 1, 2, 1, -1, 0], [2, 1, 1, 0, -1, 0], [0, 1, -1, 1, -1, 2]]
    )
    found, tied = modal(labels, 3)
    assert found.tolist() == [0, 1, 2, 1, -1, 2]
    assert tied.tolist() == [False, False, True, False, False, True]


def test_agreement_by_hand() -> None:
    truth = [0, 1, 2, 0]
    dense = population([0, 1, 2, 1], [0, 1, 2, 0], [0, 1, 1, 0])  # right: 3, 4, 3 of 4; modal 0 1 2 0
    pruned = population([0, 1, 1, 1], [0, 2, 1, 0])  # right: 2, 2; modal 0 2* 1 1*, two ties
    found = measured(pruned, dense, truth)
    assert (found["population_top1"].value, found["population_top1"].n) == (50.0, 2)
    assert found["population_top1_sd"].value == 0
    assert (found["modal_disagreement"].value, found["modal_disagreement"].n) == (75.0, 4)
    assert found["modal_ties"].value == 50.0
    own = measured(dense, dense, truth)
    assert own["population_top1"].value == pytest.approx((75 + 100 + 75) / 3)
    assert own["population_top1_sd"].value == pytest.approx(np.std([75, 100, 75], ddof=1))
    assert own["modal_disagreement"].value == 0
    assert own["modal_ties"].value == 0


def test_a_population_of_one_has_no_spread_and_says_so() -> None:
    found = measured(population([0, 1]), population([0, 2]), [0, 1])
    assert (found["population_top1_sd"].value, found["population_top1_sd"].note) == (
        None,
        "one net has no spread",
    )
    assert found["modal_disagreement"].value == 50


def test_answers_that_are_no_numbers_are_wrong_and_no_label() -> None:
    found = measured(population([0, -1, -1], [0, 1, -1]), population([0, 1, 2], [0, 1, 2]), [0, 1, -1])
    assert found["population_top1"].value == pytest.approx(100 * (1 / 3 + 2 / 3) / 2)
    assert "2 of 2 nets give answers that are no numbers" in found["population_top1"].note
    assert (found["modal_disagreement"].value, found["modal_disagreement"].n) == (0, 2)
    assert "1 of 3 examples got no answer" in found["modal_disagreement"].note
    none = measured(population([-1, -1]), population([0, 1]), [0, 1])
    assert (none["population_top1"].value, none["modal_disagreement"].value, none["modal_ties"].value) == (
        0,
        None,
        None,
    )
    assert none["modal_disagreement"].note


# --- a run


def tiny(outputs: Path, seeds: int = 2, model: str = "linear", **config: Any) -> Experiment:
    """A linear net and what is left of it, at several seeds; no training, so that a run takes a moment."""
    made = composed(
        [f"model={model}", "scale=smoke", "evaluation=none", "hardware=cpu1", f"outputs={outputs}"]
    )
    made["evaluation"]["probes"] = {
        "accuracy": {"_target_": "compressbench.probes.accuracy.Accuracy"},
        "agreement": AGREEMENT,
    }
    made["recipe"] = {
        "name": "tiny",
        "stages": {
            "init": {"_target_": "compressbench.stages.init.Init", "model": made["model"]},
            "half": {**PRUNE, "fraction": 0.5},
        },
        "compare": {
            "reference": "init",
            "floor": True,
            "series": {"cut": "half"},
            "populations": {
                "whole": {"of": "init", "seeds": seeds},
                "halves": {"of": "half", "seeds": seeds},
            },
        },
    }
    return prepare({**made, **config})


class Noting(Listening):
    """Notes what is worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, str]] = []

    def working(self, name: str, words: str):
        self.done.append((name, words))
        return super().working(name, words)


def ran(ready: Experiment) -> tuple[Records, Noting]:
    watcher = Noting()
    return execute(ready, watcher, []), watcher


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    folder = tmp_path_factory.mktemp("populations")
    return folder, ran(tiny(folder))[0]


@pytest.fixture
def folder(finished: tuple[Path, Records], tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(finished[0], tmp_path / "o")
    return tmp_path / "o"


def answers_of(ready: Experiment) -> dict[str, np.ndarray]:
    """Each state's labels, from its module and the pictures alone."""
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    found = {}
    for node in ready.plan.nodes:
        view = View(executor.state(node.name), executor.bench())
        inputs = executor.bench().task.encode(executor.bench().feed("test"))
        with torch.no_grad():
            found[node.name] = view.module(*inputs).argmax(dim=1).numpy()
    return found


def test_records_of_populations_are_what_scipy_finds(finished: tuple[Path, Records]) -> None:
    from scipy.stats import mode

    ready = tiny(finished[0])
    rows = finished[1].where(moment="populations")
    assert {r.probe for r in rows} == {"agreement"}
    answers, truth = answers_of(ready), ready.dataset.split("test").labels
    top1 = {
        name: [100 * float((answers[n] == truth).mean()) for n in (of, f"{of}@seed1")]
        for name, of in (("whole", "init"), ("halves", "half"))
    }
    assert len({a.tobytes() for a in answers.values()}) == 4, "four different nets"
    for name, values in top1.items():
        one = {r.metric: r for r in rows.where(series=name)}
        assert one["population_top1"].value == pytest.approx(statistics.fmean(values))
        assert one["population_top1_sd"].value == pytest.approx(statistics.stdev(values))
        assert one["population_top1"].n == 2
    pair = {
        of: np.stack([answers[of], answers[f"{of}@seed1"]]) for of in ("init", "half")
    }  # of two, the higher label is the modal one: scipy's mode takes the lowest, so of the labels turned round
    own, other = (9 - mode(9 - pair[of], axis=0).mode for of in ("half", "init"))
    assert rows.where(series="halves", metric="modal_disagreement").values() == [
        pytest.approx(100 * float((own != other).mean()))
    ]
    assert rows.where(series="whole", metric="modal_disagreement").values() == [0.0]
    tied = 100 * float((pair["half"][0] != pair["half"][1]).mean())
    assert rows.where(series="halves", metric="modal_ties").values() == [pytest.approx(tied)]


def test_the_columns_of_a_population(finished: tuple[Path, Records]) -> None:
    rows = finished[1].where(metric="population_top1")
    assert [(r.series, r.state, r.order, r.seed) for r in rows] == [
        ("whole", "init", 0, 0), ("halves", "half", 1, 0),
    ]  # fmt: skip
    assert [r.density for r in rows] == [1.0, pytest.approx(0.5, abs=1e-3)]
    assert len({rows[0].key, rows[1].key}) == 2
    assert [r.reference for r in rows] == [rows[0].key] * 2
    keys_of_states = {n.key for n in tiny(finished[0]).plan.nodes}
    assert not {r.key for r in rows} & keys_of_states


def test_everything_is_there_the_second_time_and_reads_back(
    finished: tuple[Path, Records], tmp_path: Path
) -> None:
    again, watcher = ran(tiny(finished[0]))
    assert watcher.done == []
    assert list(again) == list(finished[1])
    write_jsonl(again, tmp_path / "records.jsonl")
    assert list(read_jsonl(tmp_path / "records.jsonl")) == list(again)


def test_two_more_seeds_make_two_more_of_each_and_nothing_else(folder: Path) -> None:
    _, watcher = ran(tiny(folder, seeds=4))
    made = [name for name, words in watcher.done if not words.startswith("measure")]
    assert made == ["init@seed2", "half@seed2", "init@seed3", "half@seed3"]
    asked = [name for name, words in watcher.done if words == "measure answers"]
    assert asked == made
    rest = [(n, w) for n, w in watcher.done if n not in made]
    assert rest == [("init", "measure agreement"), ("half", "measure agreement")]
    assert Store(folder / "store").usage().predictions == 2 * 8


def test_what_the_plan_says_is_missing(folder: Path) -> None:
    ready = tiny(folder, seeds=3)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    assert [n.name for n in executor.missing_states()] == ["init@seed2", "half@seed2"]
    assert [(m.series, p) for m, p in executor.missing_results()] == [
        ("whole", "agreement"),
        ("halves", "agreement"),
    ]
    assert executor.missing_answers() == ["init@seed2", "half@seed2"]
    warm = tiny(folder)
    assert Executor(warm.plan, warm.store, warm.setting, Watcher()).missing_answers() == []


def test_a_next_seeds_run_shares_its_members(folder: Path) -> None:
    ready = tiny(folder, seed=1)
    missing = Executor(ready.plan, ready.store, ready.setting, Watcher()).missing_states()
    assert [n.name for n in missing] == ["init@seed2", "half@seed2"]


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "swap"])
def test_damaged_predictions_are_said_and_asked_again(
    finished: tuple[Path, Records], folder: Path, harm: str
) -> None:
    for result in (folder / "store" / "results").iterdir():
        result.unlink()
    entries = sorted((folder / "store" / "predictions").iterdir())
    content = bytearray(entries[0].read_bytes())
    if harm == "gone":
        entries[0].unlink()
    elif harm == "swap":
        entries[0].write_bytes(entries[1].read_bytes())
    else:
        content[-1] ^= 1
        entries[0].write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    records, watcher = ran(tiny(folder))
    assert [plain(r) for r in records] == [plain(r) for r in finished[1]]
    assert sum(words == "measure answers" for _, words in watcher.done) == 1
    assert any("predictions are damaged and will be made again" in s for s in watcher.said) == (
        harm != "gone"
    )
    assert sorted((folder / "store" / "predictions").iterdir()) == entries
    assert entries[0].read_bytes() == (finished[0] / "store" / "predictions" / entries[0].name).read_bytes()


def test_log_probabilities_are_kept_in_half_precision_up_to_a_number_of_classes(
    finished: tuple[Path, Records], tmp_path: Path
) -> None:
    ready = tiny(finished[0])
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    (measure,) = (m for m in ready.plan.measures if m.series == "halves")
    found = executor._population(measure.members)
    assert [(m.state, m.seed) for m in found.members] == [("half", 0), ("half@seed1", 1)]
    exact = View(executor.state("half@seed1"), executor.bench()).log_probs
    assert torch.equal(found.members[1].log_probs(), exact.half())
    assert torch.equal(found.labels[1], exact.argmax(dim=1))
    few = tiny(tmp_path, log_probs_up_to=9)
    records, _ = ran(few)
    assert [plain(r) for r in records] == [plain(r) for r in finished[1]]
    assert few.store.usage().predictions == 4
    executor = Executor(few.plan, few.store, few.setting, Watcher())
    with pytest.raises(
        UserError, match="log-probabilities of 10 classes are not kept; set log_probs_up_to=10"
    ):
        executor._population(measure.members).members[0].log_probs()


@pytest.mark.parametrize("value", [-1, 1.5, "many", True, None])
def test_a_limit_that_is_no_number_of_classes_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log_probs_up_to: .* is not a whole number of classes"):
        tiny(tmp_path, log_probs_up_to=value)


def test_nets_that_do_not_depend_on_the_seed_are_no_population(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    ready = tiny(tmp_path)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    save_file(dict(executor.state("init").weights), tmp_path / "weights.safetensors")
    made = copy.deepcopy(dict(ready.config))
    made["recipe"]["stages"] = {
        "drawn": made["recipe"]["stages"]["init"],
        "init": {
            "_target_": "compressbench.stages.train.Train",
            "length": "1it",
            "batch_size": 8,
            "lr": 0.1,
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True},
            "checkpoint": str(tmp_path / "weights.safetensors"),
        },
        "half": {**PRUNE, "fraction": 0.5},
    }
    records, _ = ran(prepare(made))
    rows = records.where(moment="populations")
    assert len(rows) == 8
    assert {r.value for r in rows} == {None}
    assert rows[0].note == (
        "no population: init@seed1 is the very state of init, its weights don't depend on the seed"
    )


def test_trainings_that_nothing_measures_are_refused_and_states_alone_are_not(tmp_path: Path) -> None:
    ready = tiny(tmp_path)
    made = copy.deepcopy(dict(ready.config))
    del made["evaluation"]["probes"]["agreement"]
    with pytest.raises(UserError, match="the evaluation has no probe that measures populations; add"):
        prepare(made)
    made["evaluation"]["probes"] = {}
    assert list(execute(prepare(made), Watcher(), [])) == []
    made = copy.deepcopy(dict(ready.config))
    made["recipe"]["compare"]["moments"] = {"early": {"reference": "init", "probes": ["agreement"]}}
    with pytest.raises(UserError, match=r"moments\.early\.probes: agreement measures populations"):
        prepare(made)


@pytest.mark.parametrize("labels", [np.zeros((3, 4), np.int64), np.zeros(3), ["a", "b"]])
def test_examples_without_one_class_are_refused(labels: Any) -> None:
    data = SimpleNamespace(name="tags", split=lambda name: SimpleNamespace(labels=labels))
    with pytest.raises(UserError, match="populations: an example of tags has more than one class, or none"):
        _check_populations(planned(BOTH), {"agreement": AGREEMENT}, data)  # type: ignore[arg-type]
    _check_populations(planned(None), {"agreement": AGREEMENT}, data)  # type: ignore[arg-type]


def test_without_populations_the_probe_measures_nothing_and_nobody_is_asked(tmp_path: Path) -> None:
    made = copy.deepcopy(dict(tiny(tmp_path).config))
    del made["recipe"]["compare"]["populations"]
    records, watcher = ran(prepare(made))
    assert {r.probe for r in records} == {"accuracy"}
    assert not any("answers" in words or "agreement" in words for _, words in watcher.done)
    assert list((tmp_path / "store" / "predictions").iterdir()) == []


class Counting:
    """A user's own probe over populations that reads log-probabilities too."""

    def measure_many(self, subjects: Population, references: Population, bench: Any):
        """Mean probability of the true label over all members."""
        truth = bench.feed("test").labels
        each = [m.log_probs().float().exp().gather(1, truth[:, None]).mean() for m in subjects.members]
        yield Metric("own_certainty", float(torch.stack(each).mean()), "1", n=len(subjects))
        yield Metric("own_by_class", 5.0, "%", group="seven", n=len(references))


def test_a_users_own_probe_is_measured_and_shown(folder: Path) -> None:
    made = copy.deepcopy(dict(tiny(folder).config))
    made["evaluation"]["probes"]["own"] = {"_target_": f"{__name__}.Counting"}
    made["trust"] = [__name__]
    ready = prepare(made)
    records, watcher = ran(ready)
    rows = records.where(metric="own_certainty")
    assert [r.series for r in rows] == ["whole", "halves"]
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    truth = executor.bench().feed("test").labels
    each = [
        executor._view(n).log_probs.half().double().exp()[torch.arange(len(truth)), truth].mean()
        for n in ("half", "half@seed1")
    ]
    assert rows[1].value == pytest.approx(float(sum(each)) / 2, rel=1e-5)
    assert not any(words == "measure answers" for _, words in watcher.done)
    (panel,) = panels(records)
    first, by_group = population_tables(panel)
    assert [h[0] for h in first.heads][-1] == "own certainty"
    assert (by_group.title, by_group.heads) == ("own by class (%)", (("seven", ""),))
    assert [r.cells[0].text for r in by_group.rows] == ["5.0", "5.0"]


def test_explain_counts_the_trainings(command: Any) -> None:
    done = command("explain", "population", "scale=smoke", "recipe.seeds=4")
    assert done.returncode == 0, done.stderr
    assert "  pruned                   pruned, seeds 0 to 3\n" in done.stdout
    # dense, pruned and random at each of four seeds
    assert "3 trainings of this seed and 9 of other seeds" in done.stdout
    assert "pruned@seed*             train 1ep (SGD, lr 0.02, batch 64)  x3" in done.stdout
    lone = command("explain", "one_shot", "scale=smoke")
    assert "opulations" not in lone.stdout


# --- the report


def figures(series: str, seed: int = 0, n: int = 3, **given: Any) -> list[Record]:
    place = {
        "series": series, "moment": "populations", "seed": seed, "probe": "agreement",
        "key": f"{series}-{seed}-{n}", "reference": f"dense-{seed}-{n}",
    } | given  # fmt: skip
    return [
        record(**place, metric="population_top1", value=84.25, unit="%", n=n),
        record(**place, metric="population_top1_sd", value=2.06, unit="points", n=n),
        record(**place, metric="modal_disagreement", value=12.34, unit="%", n=10_000),
        record(**place, metric="modal_ties", value=1.5, unit="%", n=10_000),
    ]


def test_the_table_of_populations() -> None:
    (panel,) = panels(Records([*figures("dense"), *figures("pruned")]))
    (table,) = population_tables(panel)
    assert [h[0] for h in table.heads] == ["nets", "seeds", "Top-1", "Modal label differs", "Ties"]
    assert [(r.label, r.reference) for r in table.rows] == [("dense", True), ("pruned", False)]
    assert [c.plain for c in table.rows[1].cells] == ["3", "0–2", "84.2±2.1", "12.3", "1.5"]
    assert "several that are as frequent (ties) the highest" in table.notes[0]
    assert len(table.notes) == 1


def test_populations_are_in_no_series_and_no_average(tmp_path: Path) -> None:
    alone = [record(), record(series="ticket", order=1, density=0.5, value=80.0)]
    many = [*figures("dense"), *figures("ticket", order=1)]
    (panel,) = panels(Records([*alone, *many]))
    (without,) = panels(Records(alone))
    assert list(panel.rows) == alone
    assert dataclasses.replace(panel, populations=(), rows=without.rows) == without
    text = write_report(Records([*alone, *many]), tmp_path, "t").read_text()
    assert 'id="populations"' in text
    assert 'id="populations"' not in write_report(Records(alone), tmp_path, "t").read_text()


def test_populations_of_several_runs_stay_apart_and_are_said_to_share_nets() -> None:
    rows = [r for seed in (0, 1) for name in ("dense", "pruned") for r in figures(name, seed)]
    (table,) = population_tables(panels(Records(rows))[0])
    assert [r.label for r in table.rows] == [
        "dense, run of seed 0", "pruned, run of seed 0", "dense, run of seed 1", "pruned, run of seed 1",
    ]  # fmt: skip
    assert [r.cells[1].text for r in table.rows] == ["0–2", "0–2", "1–3", "1–3"]
    assert "share nets where their seeds overlap" in table.notes[1]
    apart = [r for seed in (0, 3) for r in figures("dense", seed)]
    assert len(population_tables(panels(Records(apart))[0])[0].notes) == 1


def test_populations_of_two_sizes_in_one_sweep_are_told_apart() -> None:
    """Their runs are called by what their overrides differ in, as all are whose figures collide."""
    three = figures("dense", n=3)
    five = [dataclasses.replace(r, value=80.0) for r in figures("dense", n=5)]
    assert conflicts([*three, *five])
    assert not conflicts([*three, *figures("dense", n=3), *figures("dense", seed=1)])


def test_a_population_that_is_none_has_its_reason_in_the_table() -> None:
    rows = [dataclasses.replace(r, value=None, note="no population: x") for r in figures("dense")]
    (table,) = population_tables(panels(Records(rows))[0])
    assert [c.plain for c in table.rows[0].cells[2:]] == ["–", "–", "–"]
    assert [text for _, text in table.footnotes.values()] == ["no population: x"]


def test_a_run_of_populations_alone_has_a_report_and_a_terminal_table(tmp_path: Path) -> None:
    rows = Records([*figures("dense"), *figures("pruned")])
    text = write_report(rows, tmp_path, "t").read_text()
    assert "populations only" in text
    assert "12.3" in text
    out = StringIO()
    print_tables(rows, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["pruned", "3", "0–2", "84.2±2.1", "12.3", "1.5"] for line in lines)


def test_the_shipped_probe_measures_populations_only() -> None:
    assert hasattr(trust.locate(AGREEMENT["_target_"]), "measure_many")
    assert not hasattr(trust.locate(AGREEMENT["_target_"]), "measure")
