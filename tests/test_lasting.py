"""Nothing is lost: swapped, flipped and vanished entries, pruning beside a run, other formats, caches of nonsense."""

from __future__ import annotations

import fcntl
import functools
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressbench import store as stores
from compressbench.cli.run import composed
from compressbench.errors import Incomplete, UserError
from compressbench.records import Record, Records
from compressbench.runs.execute import Executor, History, Watcher
from compressbench.runs.experiment import Experiment, execute, prepare
from compressbench.store import Damaged, Store, digest, read_checkpoint, save_checkpoint
from conftest import Command
from test_contract import plain
from test_store import STATE

PRUNE = {
    "_target_": "compressbench.stages.prune.Prune",
    "criterion": {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True},
    "of": "whole",
}


class Listening(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@functools.cache
def tiny_config() -> dict[str, Any]:
    """A linear net, cut to two densities; no training, so that a run takes a moment."""
    config = composed(["model=linear", "scale=smoke", "evaluation=none", "hardware=cpu1"])
    config["evaluation"]["probes"] = {
        "accuracy": {"_target_": "compressbench.probes.accuracy.Accuracy"},
        "structure": {"_target_": "compressbench.probes.structure.Structure"},
    }
    config["recipe"] = {
        "name": "tiny",
        "stages": {
            "init": {"_target_": "compressbench.stages.init.Init", "model": config["model"]},
            "half": {**PRUNE, "fraction": 0.5},
            "tenth": {**PRUNE, "fraction": 0.9},
        },
        "compare": {"reference": "init", "floor": True, "series": {"cut": ["half", "tenth"]}},
    }
    return config


def tiny(outputs: Path) -> Experiment:
    return prepare({**tiny_config(), "outputs": str(outputs)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """(outputs of a whole run, its records without what no two runs share)."""
    folder = tmp_path_factory.mktemp("made")
    return folder, [plain(r) for r in execute(tiny(folder), Watcher(), [])]


@pytest.fixture
def copy(made: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "o")
    return tmp_path / "o"


def again(outputs: Path) -> tuple[list[Any], list[str]]:
    """Records of the same run once more, and what it said."""
    watcher = Listening()
    return [plain(r) for r in execute(tiny(outputs), watcher, [])], watcher.said


def files_of(outputs: Path) -> list[Path]:
    return sorted(p for p in (outputs / "store").rglob("*") if p.is_file())


# --- B 2: entries are bound to their keys


@pytest.mark.parametrize("kind", ["states", "results"])
def test_swapped_entries_are_not_taken(made: Any, copy: Path, kind: str) -> None:
    entries = sorted((copy / "store" / kind).iterdir())
    one, other = entries[0], entries[1]
    aside = copy / "aside"
    one.rename(aside), other.rename(one), aside.rename(other)
    found, said = again(copy)
    assert found == made[1]
    assert sum("damaged and will be made again" in s for s in said) == 2


def to_format_1(outputs: Path) -> None:
    """The store as version 0.1.0 wrote it: no keys, results bare."""
    for path in (outputs / "store" / "states").glob("*/state.json"):
        body = json.loads(path.read_text())["body"]
        del body["key"]
        body["format"] = 1
        path.write_text(json.dumps({"digest": digest(body), "body": body}))
    for path in (outputs / "store" / "results").glob("*.json"):
        body = json.loads(path.read_text())["body"]["result"]
        path.write_text(json.dumps({"digest": digest(body), "body": body}))


def test_a_store_of_format_1_stays_warm_and_is_upgraded(made: Any, copy: Path) -> None:
    to_format_1(copy)
    ready = tiny(copy)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    long_ago = time.time() - 10 * 86400
    for path in files_of(copy):
        os.utime(path, (long_ago, long_ago))
        os.utime(path.parent, (long_ago, long_ago))
    assert executor.missing_states() == []
    assert executor.missing_results() == []
    for path in (copy / "store").rglob("*.json"):
        if path.name != "history.json":
            body = json.loads(path.read_text())["body"]
            assert (body["format"], body["key"]) == (
                2,
                path.stem if path.stem != "state" else path.parent.name,
            )
            assert time.time() - path.stat().st_mtime > 9 * 86400  # an upgrade makes nothing younger
    found, said = again(copy)
    assert found == made[1]
    assert said == []


def test_swapped_states_of_format_1_are_told_by_their_provenance(made: Any, copy: Path) -> None:
    to_format_1(copy)
    ready = tiny(copy)
    one, other = (ready.store.state_folder(ready.plan.node(n).key) for n in ("half", "tenth"))
    aside = copy / "aside"
    one.rename(aside), other.rename(one), aside.rename(other)
    found, said = again(copy)
    assert found == made[1]
    assert sum("another state's entry" in s for s in said) == 2


@pytest.mark.parametrize("kind", ["states", "results"])
def test_another_format_is_said_and_left_alone(copy: Path, kind: str) -> None:
    path = next((copy / "store" / kind).rglob("*.json"))
    body = {**json.loads(path.read_text())["body"], "format": 3}
    path.write_text(json.dumps({"digest": digest(body), "body": body}))
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=r"another version of compressbench \(format 3; this one reads 1 and 2\)"
    ):
        again(copy)
    assert path.read_bytes() == before


def flip(made: Any, copy: Path, path: Path, spot: float, bit: int) -> None:
    flipped = bytearray(path.read_bytes())
    flipped[int(spot * (len(flipped) - 1))] ^= 1 << bit
    path.write_bytes(flipped)
    assert again(copy)[0] == made[1], f"{path.relative_to(copy)}, at {spot:.3f}, bit {bit}"


def test_a_flipped_bit_in_each_kind_of_file_is_made_again_or_means_nothing(made: Any, copy: Path) -> None:
    kinds = {(p.suffix, p.parent.parent.name): p for p in files_of(copy)}
    assert len(kinds) == 4  # state.json, tensors, results, history
    for place, path in enumerate(kinds.values()):
        flip(made, copy, path, 0.5, place % 7)


@pytest.mark.slow
def test_flipped_bits_in_every_stored_file_are_made_again_or_mean_nothing(made: Any, copy: Path) -> None:
    rng = random.Random(0)
    for path in files_of(copy):
        for spot in (0.0, rng.random(), rng.random(), 1.0):
            flip(made, copy, path, spot, rng.randrange(7))


@pytest.mark.parametrize(
    "body",
    [
        {"metrics": [{"name": "top1", "value": 1.0, "unit": "%", "colour": 3}], "provenance": {}},
        {
            "metrics": [{"name": 3, "value": 1.0, "unit": "%"}],
            "provenance": {"dtype": "", "versions": "", "machine": ""},
        },
        {"metrics": "top1"},
        {},
    ],
)
def test_a_result_that_is_no_result_is_made_again(made: Any, copy: Path, body: Any) -> None:
    path = min((copy / "store" / "results").iterdir())
    Store(copy / "store").save_result(path.stem, body)
    found, said = again(copy)
    assert found == made[1]
    assert any("no list of metrics" in s for s in said)


def test_a_state_whose_tensors_it_doesnt_describe_is_made_again(made: Any, copy: Path) -> None:
    ready = tiny(copy)
    path = ready.store.state_folder(ready.plan.node("half").key) / "state.json"
    body = json.loads(path.read_text())["body"]
    body["order"] = ["weights/nothing"]
    path.write_text(json.dumps({"digest": digest(body), "body": body}))
    for result in (copy / "store" / "results").iterdir():
        result.unlink()
    found, said = again(copy)
    assert found == made[1]
    assert any("damaged" in s for s in said)


# --- B 2: checkpoints


def test_a_checkpoint_holds_its_header_and_key_under_its_digest(tmp_path: Path) -> None:
    tensors = {"weights/a": torch.randn(3, 4), "own/n": torch.tensor(7), "masks/a": torch.rand(5) > 0.5}
    header = {"step": 12, "curve": [{"step": 4, "top1": 50.0}], "seconds": 1.5}
    save_checkpoint(tmp_path / "k1", tensors, header)
    back = read_checkpoint(tmp_path / "k1")
    assert back is not None
    assert back[1] == header
    assert all(torch.equal(back[0][n], t) and back[0][n].dtype == t.dtype for n, t in tensors.items())
    assert read_checkpoint(tmp_path / "k2") is None
    shutil.copytree(tmp_path / "k1", tmp_path / "k2")
    with pytest.raises(Damaged, match="entry of k1"):
        read_checkpoint(tmp_path / "k2")
    path = tmp_path / "k1" / "checkpoint.safetensors"
    content = path.read_bytes()
    for spot in range(len(content)):
        flipped = bytearray(content)
        flipped[spot] ^= 4
        path.write_bytes(flipped)
        try:
            found = read_checkpoint(tmp_path / "k1")
        except Damaged:
            continue
        assert found is not None  # a bit that carries nothing, e.g. of the header's padding
        assert found[1] == header
        assert all(torch.equal(found[0][n], t) for n, t in tensors.items())


def test_a_checkpoint_with_another_tensors_name_is_damaged(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "k", {"weights/a": torch.ones(2)}, {"step": 1})
    path = tmp_path / "k" / "checkpoint.safetensors"
    note = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])[
        "__metadata__"
    ]
    save_file({"weightz/a": load_file(path)["weights/a"]}, path, metadata=note)
    with pytest.raises(Damaged, match="tensors were altered"):
        read_checkpoint(tmp_path / "k")


# --- B 1: what vanishes


def test_pruning_beside_a_run_takes_nothing_that_it_needs(made: Any, copy: Path) -> None:
    ready = tiny(copy)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    Store(copy / "store").save("f" * 64, STATE, {})
    taken = []

    class Pruning(Watcher):
        def working(self, name: str, words: str) -> Any:
            taken.append(Store(copy / "store").prune(0))
            return super().working(name, words)

    executor.watcher = Pruning()
    victim = min((copy / "store" / "results").iterdir())
    victim.unlink()  # so that there is something to do, while another one prunes
    assert [plain(r) for r in executor.run()] == made[1]
    assert [(u.states, u.results) for u in taken] == [(1, 0)]  # the one that no plan needs
    assert Store(copy / "store").prune(0).states == 4  # the run is over


def test_what_vanishes_while_it_runs_is_made_again(made: Any, tmp_path: Path) -> None:
    ready = tiny(tmp_path)

    class Removing(Watcher):
        def working(self, name: str, words: str) -> Any:
            for part in ("states", "results"):
                for path in (tmp_path / "store" / part).iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            return super().working(name, words)

    assert [plain(r) for r in execute(ready, Removing(), [])] == made[1]


def test_a_run_that_lacks_rows_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tiny(copy)
    monkeypatch.setattr(Executor, "result", lambda self, measure, probe: None)
    for path in list((copy / "store" / "results").iterdir())[:2]:
        path.unlink()
    into: list[Record] = []
    with pytest.raises(Incomplete, match="2 results could not be had") as caught:
        execute(ready, Watcher(), into)
    assert caught.value.code == 1
    assert into


# --- B 4: caches, locks, read-only stores


@pytest.mark.parametrize(
    "content",
    [b"[]", b'{"a": "b"}', b"\xff\xfe", b"{", b'{"x": NaN, "y": [1], "z": -1, "w": true}', b"[" * 5000, None],
)
def test_a_history_of_nonsense_costs_nothing(made: Any, copy: Path, content: bytes | None) -> None:
    path = copy / "store" / "history.json"
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    shutil.rmtree(copy / "store" / "results")
    (copy / "store" / "results").mkdir()
    from compressbench.cli.terminal import Terminal
    from compressbench.console import console

    ready = tiny(copy)
    assert History(ready.store).read() == {}
    Terminal(console(file=open(os.devnull, "w"))).plan(ready)  # noqa: SIM115 - estimates from the history
    assert [plain(r) for r in execute(ready, Watcher(), [])] == made[1]


def mend(outputs: str, mark: str) -> None:
    while not Path(mark).exists():
        time.sleep(0.001)
    # torch's gradients can't be taken in a fork of a process that took some; none is needed for these figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compressbench.models.prepared._gradient", lambda *_: None)
        tiny_records = again(Path(outputs))[0]
    Path(f"{mark}.{os.getpid()}").write_text(json.dumps(len(tiny_records)))


def test_processes_that_mend_the_same_entries_all_succeed(made: Any, copy: Path, tmp_path: Path) -> None:
    for path in files_of(copy):
        if path.suffix in (".json", ".safetensors"):
            path.write_bytes(path.read_bytes()[:-9])
    context = multiprocessing.get_context("fork")
    mark = tmp_path / "go"
    workers = [context.Process(target=mend, args=(str(copy), str(mark))) for _ in range(4)]
    for worker in workers:
        worker.start()
    mark.write_text("")
    for worker in workers:
        worker.join(120)
    assert [w.exitcode for w in workers] == [0] * 4
    assert [json.loads(p.read_text()) for p in tmp_path.glob("go.*")] == [len(made[1])] * 4
    assert again(copy) == (made[1], [])


def test_a_lock_that_is_removed_by_its_holder_is_still_held_by_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("k"):
        assert (tmp_path / "locks" / "k").exists()
    assert list((tmp_path / "locks").iterdir()) == []
    count = tmp_path / "count"
    count.write_text("0")

    def work() -> None:
        own = Store(tmp_path)
        for _ in range(60):
            with own.lock("k"):
                value = int(count.read_text())
                time.sleep(0.0002)
                count.write_text(str(value + 1))

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert int(count.read_text()) == 240


def test_what_killed_runs_leave_is_cleaned(copy: Path, command: Command) -> None:
    store = Store(copy / "store")
    (copy / "store" / "locks" / "killed").write_text("")
    (copy / "store" / "plans" / "killed").write_text("a\nb\n")
    (copy / "store" / "aside" / "half").mkdir()
    (copy / "store" / "checkpoints" / "killed").mkdir()
    (copy / "store" / "checkpoints" / "killed" / "checkpoint.part").write_bytes(b"x")
    part = copy / "runs" / "r" / "records.jsonl.1.part"
    part.parent.mkdir(parents=True)
    part.write_text("x")
    held = part.with_name("held.2.part")
    held.write_text("y")
    with held.open() as file, store.lock("mine"):
        fcntl.flock(file, fcntl.LOCK_EX)
        done = command("store", "--prune", "--outputs", str(copy))
        assert done.returncode == 0, done.stderr
        assert "0 states" in done.stdout.splitlines()[0]
        assert "1 half-written file" in done.stdout
        assert (copy / "store" / "locks" / "mine").exists()
    assert not part.exists()
    assert held.exists()
    for name in ("locks", "plans", "aside", "checkpoints"):
        assert [p.name for p in (copy / "store" / name).iterdir() if p.name != "mine"] == []


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(stores.fcntl, "flock", none)
    with (
        pytest.raises(
            UserError, match=r"can't lock .*store/locks/k: No locks available; outputs=.* must lie"
        ),
        store.lock("k"),
    ):
        pass


def test_a_read_only_store_serves(
    copy: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf

    config = dict(tiny(copy).config)
    run = copy / "runs" / "r"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    before = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in copy.rglob("*")}

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Store, "write_json", refuse)
    monkeypatch.setattr(Store, "save", refuse)
    monkeypatch.setattr(Store, "_locked", refuse)
    to_format_1(copy)
    before |= {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (copy / "store").rglob("*.json")}
    done = command("store", "--outputs", str(copy))
    assert done.returncode == 0, done.stderr
    assert "4 states" in done.stdout
    done = command(
        "export", str(run), "--state", "half", "--to", "safetensors", "--output", str(tmp_path / "x")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x" / "half.safetensors").is_file()
    after = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in copy.rglob("*")}
    assert {p for p in after if p.is_file() and after[p] != before[p]} == set()
    assert set(after) == set(before)


# --- B 5: folders of refused and killed runs


def test_a_report_skips_folders_without_records_with_a_line(command: Command, tmp_path: Path) -> None:
    from cases_report import full
    from compressbench.records import write_jsonl

    runs = tmp_path / "runs"
    for name in ("a", "b"):
        (runs / name).mkdir(parents=True)
    write_jsonl(Records(r for r in full(1) if r.moment == "final"), runs / "b" / "records.jsonl")
    done = command("report", str(runs / "a"), str(runs / "b"), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert f"skipped {runs / 'a'}: it holds no records" in done.stdout
    done = command("report", str(runs / "a"))
    assert done.returncode == 2
    assert "no records.jsonl" in done.stderr


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "result"])
def test_a_pipe_in_the_store_hangs_nothing(made: Any, copy: Path, name: str) -> None:
    ready = tiny(copy)
    folder = ready.store.state_folder(ready.plan.node("half").key)
    path = min((copy / "store" / "results").iterdir()) if name == "result" else folder / name
    path.unlink()
    os.mkfifo(path)
    found, said = again(copy)
    assert found == made[1]
    assert sum("is no file" in s for s in said) == 1


def test_what_a_stage_says_itself_is_not_said_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressbench.stages.prune import Prune

    plainly = Prune.apply

    def apply(self: Any, state: Any, bench: Any) -> Any:
        bench.say(f"{bench.name}: odd")
        return plainly(self, state, bench).with_facts(flags=["odd", "strange"])

    monkeypatch.setattr(Prune, "apply", apply)
    ready = tiny(copy)
    shutil.rmtree(ready.store.state_folder(ready.plan.node("half").key))
    watcher = Listening()
    execute(ready, watcher, [])
    assert [s for s in watcher.said if "half" in s] == ["half: odd", "half: strange"]
