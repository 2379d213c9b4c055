"""The store: exact round trips, damage, locks, nothing half-written."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from compressbench.errors import UserError
from compressbench.state import State
from compressbench.store import Damaged, Store, digest

STATE = State(
    model={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
    tensors={
        "weights": {"b": torch.randn(3), "a": torch.randn(2, 3), "n": torch.tensor(7)},
        "masks": {"a": torch.rand(2, 3) > 0.5},
        "scales": {"a": torch.randn(2).to(torch.bfloat16)},
    },
    edits=({"remove": {"a": {"0": [1, 2]}}},),
    policies={"threshold": 0.5},
    facts={"density": 0.5, "curve": [{"step": 1.0}]},
)


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("k", STATE, {"made": "now"})
    back = Store(tmp_path).load("k")
    assert back is not None
    assert (back.model, back.edits, back.policies, back.facts, back.key) == (
        STATE.model, STATE.edits, STATE.policies, STATE.facts, "k",
    )  # fmt: skip
    assert {g: list(named) for g, named in back.tensors.items()} == {
        g: list(n) for g, n in STATE.tensors.items()
    }
    for group, named in STATE.tensors.items():
        for name, tensor in named.items():
            assert torch.equal(back.tensors[group][name], tensor)
            assert back.tensors[group][name].dtype == tensor.dtype
    assert store.load("other") is None
    assert [p.name for p in (tmp_path / "aside").iterdir()] == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_damage_is_detected(tmp_path: Path, name: str, harm: str) -> None:
    Store(tmp_path).save("k", STATE, {})
    path = tmp_path / "states" / "k" / name
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        content[-3] ^= 1
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    with pytest.raises(Damaged):
        Store(tmp_path).load("k")


def test_results(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load_result("r") is None
    store.save_result("r", {"metrics": [1.5, None]})
    assert store.load_result("r") == {"metrics": [1.5, None]}
    path = tmp_path / "results" / "r.json"
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(Damaged):
        store.load_result("r")


def test_digest_is_of_content() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def _hold(root: str, log: str) -> None:
    store = Store(Path(root))
    with store.lock("k"), Path(log).open("a") as file:
        file.write(f"{os.getpid()} in\n")
        file.flush()
        time.sleep(0.2)
        file.write(f"{os.getpid()} out\n")


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    Store(tmp_path)
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hold, args=(str(tmp_path), str(log))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 6
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered == [left[0], "in"]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    store.save("k", STATE, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        store.save("k2", STATE, {})
    with pytest.raises(OSError, match="No space"):
        store.save_result("r", {})
    monkeypatch.undo()
    assert store.load("k") is not None
    assert Store(tmp_path).load("k2") is None
    assert list((tmp_path / "aside").iterdir()) == []


def test_prune(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("old", STATE, {})
    store.save("new", STATE, {})
    store.save_result("r", {})
    checkpoint = store.checkpoints("killed")
    checkpoint.mkdir()
    (checkpoint / "checkpoint.safetensors").write_bytes(b"x" * 10)
    long_ago = time.time() - 10 * 86400
    os.utime(tmp_path / "states" / "old", (long_ago, long_ago))
    dropped = store.prune(older_than_days=5)
    assert (dropped.states, dropped.results, dropped.leftovers) == (1, 0, 1)
    assert Store(tmp_path).load("old") is None
    assert Store(tmp_path).load("new") is not None
    assert store.usage().states == 1


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"outputs: can't write to .*file"):
        Store(tmp_path / "file" / "store")
