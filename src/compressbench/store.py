"""Store: states and probe results by content address. Writes go aside, then are renamed; locks are the kernel's.

Layout below its root::

    states/<key>/state.json, tensors.safetensors
    results/<key>.json
    checkpoints/<key>/                 only while a stage is running or was killed
    locks/<key>                        flock files, empty
    aside/                             half-written entries; a killed process leaves some, ``prune`` drops them
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.state import State

FORMAT = 1


class Damaged(Exception):
    """An entry whose bytes are not those that were written."""


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value; equal values give equal digests whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Usage:
    """What a store holds: numbers of entries and their bytes."""

    states: int
    state_bytes: int
    results: int
    result_bytes: int
    leftovers: int
    leftover_bytes: int


class Store:
    """A folder of states and results.

    Raises:
        UserError: the folder can't be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen: set[str] = set()
        try:
            for name in ("states", "results", "checkpoints", "locks", "aside"):
                (root / name).mkdir(parents=True, exist_ok=True)
            trial = root / "aside" / f"trial-{uuid.uuid4().hex}"
            trial.write_bytes(b"")
            trial.unlink()
        except OSError as error:
            raise UserError(
                f"outputs: can't write to {root}: {error.strerror}; set outputs=FOLDER to one you can write"
            ) from error

    def state_folder(self, key: str) -> Path:
        """Where a state of this key is or would be."""
        return self.root / "states" / key

    def read_facts(self, key: str) -> dict[str, Any] | None:
        """A state's JSON if the entry is whole (digest of its tensors checked once a process), else None.

        Raises:
            Damaged: the entry is there but its bytes are not those that were written.
        """
        folder = self.state_folder(key)
        if not folder.is_dir():
            return None
        try:
            text = (folder / "state.json").read_bytes()
            meta = json.loads(text)
            body = meta["body"]
            if digest(body) != meta["digest"] or body["format"] != FORMAT:
                raise Damaged(f"{folder}: state.json was altered")
            if key not in self._seen and file_digest(folder / "tensors.safetensors") != body["tensors"]:
                raise Damaged(f"{folder}: tensors.safetensors was altered")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{folder}: {error}") from error
        self._seen.add(key)
        return body

    def load(self, key: str) -> State | None:
        """A state by key, None if there is none.

        Raises:
            Damaged: see ``read_facts``.
        """
        body = self.read_facts(key)
        if body is None:
            return None
        return read_state(self.state_folder(key), body, key)

    def save(self, key: str, state: State, provenance: Mapping[str, Any]) -> None:
        """Writes a state; afterwards it is there whole or, had this process died, not at all."""
        with self._aside(key) as folder:
            write_state(folder, state, provenance)
            self.discard(key)
            os.replace(folder, self.state_folder(key))
        self._sync(self.root / "states")
        self._seen.add(key)

    def discard(self, key: str) -> None:
        """Drops a state, e.g. a damaged one."""
        self._seen.discard(key)
        folder = self.state_folder(key)
        if folder.exists():
            gone = self.root / "aside" / f"gone-{uuid.uuid4().hex}"
            os.replace(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def load_result(self, key: str) -> dict[str, Any] | None:
        """A probe's result, None if there is none.

        Raises:
            Damaged: it is there but not as it was written.
        """
        path = self.root / "results" / f"{key}.json"
        try:
            meta = json.loads(path.read_bytes())
            if digest(meta["body"]) != meta["digest"]:
                raise Damaged(f"{path}: was altered")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path}: {error}") from error
        return meta["body"]

    def save_result(self, key: str, body: Mapping[str, Any]) -> None:
        """Writes a probe's result, whole or not at all."""
        self.write_json(self.root / "results" / f"{key}.json", {"digest": digest(body), "body": body})

    def write_json(self, path: Path, value: Any) -> None:
        """Writes one JSON file aside and renames it."""
        aside = self.root / "aside" / uuid.uuid4().hex
        try:
            with aside.open("w", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def checkpoints(self, key: str) -> Path:
        """The folder for a running stage's own checkpoints."""
        return self.root / "checkpoints" / key

    def drop_checkpoints(self, key: str) -> None:
        """Called once the state has landed."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Any = None) -> Iterator[None]:
        """Holds the key alone among processes; ``waiting()`` is called once if another one has it."""
        with (self.root / "locks" / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def usage(self) -> Usage:
        """Counts and bytes of what is there."""
        states = [d for d in (self.root / "states").iterdir() if d.is_dir()]
        results = list((self.root / "results").glob("*.json"))
        rest = [*(self.root / "aside").iterdir(), *(self.root / "checkpoints").iterdir()]
        return Usage(
            len(states),
            sum(map(_bytes, states)),
            len(results),
            sum(map(_bytes, results)),
            len(rest),
            sum(map(_bytes, rest)),
        )

    def prune(self, older_than_days: float | None = None) -> Usage:
        """Drops leftovers of killed processes and, if an age is given, states and results not made since.

        Entries that a running process has locked stay. Returns what was dropped.
        """
        limit = None if older_than_days is None else time.time() - older_than_days * 86400
        rest = [p for p in (self.root / "aside").iterdir() if time.time() - p.stat().st_mtime > 3600]
        rest += [p for p in (self.root / "checkpoints").iterdir() if self._free(p.name)]
        states = (
            []
            if limit is None
            else [d for d in (self.root / "states").iterdir() if d.stat().st_mtime < limit]
        )
        states = [d for d in states if self._free(d.name)]
        results = (
            []
            if limit is None
            else [f for f in (self.root / "results").iterdir() if f.stat().st_mtime < limit]
        )
        dropped = Usage(
            len(states),
            sum(map(_bytes, states)),
            len(results),
            sum(map(_bytes, results)),
            len(rest),
            sum(map(_bytes, rest)),
        )
        for path in (*rest, *states):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in results:
            path.unlink()
        return dropped

    def _free(self, key: str) -> bool:
        path = self.root / "locks" / key
        if not path.exists():
            return True
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    @contextlib.contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        folder = self.root / "aside" / f"{key[:16]}-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _sync(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_state(folder: Path, state: State, provenance: Mapping[str, Any]) -> None:
    """A state as ``tensors.safetensors`` and ``state.json`` in a folder that exists."""
    path = folder / "tensors.safetensors"
    flat = {
        f"{group}/{name}": t.contiguous()
        for group, named in state.tensors.items()
        for name, t in named.items()
    }
    save_tensors(flat, path)
    body = {
        "format": FORMAT,
        "model": state.model,
        "edits": list(state.edits),
        "policies": state.policies,
        "facts": state.facts,
        "order": list(flat),
        "tensors": file_digest(path),
        "provenance": provenance,
    }
    with (folder / "state.json").open("w", encoding="utf-8") as file:
        json.dump({"digest": digest(body), "body": body}, file)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(tensors: Mapping[str, Any], path: Path, note: str = "") -> None:
    """Named tensors, and a note for the header, as one safetensors file that has reached the disk.

    Raises:
        OSError: the disk is full or the file can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({n: t.clone() for n, t in tensors.items()}, path, metadata={"note": note} if note else None)
    except SafetensorError as error:
        full = "No space left" in str(error) or "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_state(folder: Path, body: Mapping[str, Any], key: str) -> State:
    """The inverse of ``write_state``; the tensors' order is the one they were written in."""
    from safetensors.torch import load_file

    from compressbench.state import State

    flat = load_file(folder / "tensors.safetensors")
    groups: dict[str, dict[str, Any]] = {}
    for full in body["order"]:
        group, _, name = full.partition("/")
        groups.setdefault(group, {})[name] = flat[full]
    return State(body["model"], groups, tuple(body["edits"]), body["policies"], body["facts"], key)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return path.stat().st_size
