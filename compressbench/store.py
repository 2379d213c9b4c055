"""Store: states, results and predictions by content address. Writes go aside, then are renamed; locks are the kernel's.

Layout below its root::

    states/<key>/state.json, tensors.safetensors
    results/<key>.json
    predictions/<key>.safetensors      what a state answered on a split; JSON entry in the header
    checkpoints/<key>/                 only while a stage is running or was killed
    plans/<id>                         keys that a running process needs; ``prune`` leaves them alone
    locks/<key>                        flock files, empty, there only while something is made
    aside/                             half-written entries; a killed process leaves some, ``prune`` drops them

Every JSON entry is ``{"digest": …, "body": …}``, the digest that of the body, which holds the entry's format and key; a
state's body holds the digest of its tensors' file, that of predictions the digest of their tensors. That much stays in
every later format, so that an entry of another format is told from a damaged one. Format 1 had no keys; it is read, and
rewritten as format 2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.state import State

FORMAT = 2


class _Taken(Exception):
    """Another process has a lock."""


def _give_up() -> None:
    raise _Taken


class Damaged(Exception):
    """An entry whose bytes are not those that were written, or that was written for another key."""


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value; equal values give equal digests whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        OSError: it can't be read.
        ValueError: it is a pipe or a device, which may never end.
    """
    _refuse_pipes(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CHECKPOINT = "checkpoint.safetensors"
FOLDERS = ("states", "results", "predictions", "checkpoints", "plans", "locks", "aside")
ENTRIES = ("states", "results", "predictions")


@dataclass(frozen=True)
class Usage:
    """What a store holds: numbers of entries and their bytes."""

    states: int
    state_bytes: int
    results: int
    result_bytes: int
    leftovers: int
    leftover_bytes: int
    predictions: int = 0
    prediction_bytes: int = 0


class Store:
    """A folder of states, results and predictions; with ``writable=False`` one only read, and made by somebody else.

    ``without_key`` counts the results of format 1 that were read: they are taken at their file's name.

    Raises:
        UserError: the folder can't be made or written.
    """

    def __init__(self, root: Path, writable: bool = True) -> None:
        self.root, self.writable = root, writable
        self.without_key = 0
        self._seen: set[str] = set()
        for name in FOLDERS:
            if (root / name).is_symlink():
                raise UserError(
                    f"{root / name} is a link; a store's folders hold what is its own, and are no links"
                )
        if not writable:
            return
        try:
            for name in FOLDERS:
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

    def read_facts(
        self, key: str, made_by: Callable[[Mapping[str, Any]], bool] | None = None
    ) -> dict[str, Any] | None:
        """A state's JSON if the entry is whole (digest of its tensors checked once a process), else None.

        Args:
            made_by: whether a provenance is this state's; asked of format 1 only, which holds no key.

        Raises:
            Damaged: the entry is there but its bytes are not those that were written for this key.
            UserError: it is whole, and of a format that this version doesn't know.
        """
        folder = self.state_folder(key)
        try:
            body = _body(_content(folder / "state.json"), key, folder)
            if key not in self._seen and file_digest(folder / "tensors.safetensors") != body["tensors"]:
                raise Damaged(f"{folder}: tensors.safetensors was altered")
            if "key" not in body:
                if made_by is not None and not made_by(body["provenance"]):
                    raise Damaged(f"{folder}: this is another state's entry")
                body = {**body, "format": FORMAT, "key": key}
                self._upgrade(folder / "state.json", body)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not folder.exists():
                return None
            raise Damaged(f"{folder}: {error.strerror}: {error.filename}") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{folder}: {error}") from error
        self._seen.add(key)
        return body

    def _upgrade(self, path: Path, body: Mapping[str, Any]) -> None:
        """Rewrites an entry of format 1 with its key; where nothing can be written it is read as it is."""
        if self.writable:
            with contextlib.suppress(OSError):
                made = path.stat(), path.parent.stat()
                self.write_json(path, {"digest": digest(body), "body": body})
                for place, was in zip(
                    (path, path.parent), made, strict=True
                ):  # the age that ``prune`` goes by stays that of the first writing
                    os.utime(place, ns=(was.st_atime_ns, was.st_mtime_ns))

    def load(self, key: str, made_by: Callable[[Mapping[str, Any]], bool] | None = None) -> State | None:
        """A state by key, None if there is none.

        Raises:
            Damaged, UserError: see ``read_facts``.
        """
        body = self.read_facts(key, made_by)
        if body is None:
            return None
        try:
            return read_state(self.state_folder(key), body, key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{self.state_folder(key)}: {type(error).__name__}: {error}") from error

    def save(self, key: str, state: State, provenance: Mapping[str, Any]) -> None:
        """Writes a state; afterwards it is there whole or, had this process died, not at all."""
        with self._aside(key) as folder:
            write_state(folder, state, provenance, key)
            self.discard(key)
            os.replace(folder, self.state_folder(key))
        self._sync(self.root / "states")
        self._seen.add(key)

    def discard(self, key: str) -> None:
        """Drops a state, e.g. a damaged one."""
        self._seen.discard(key)
        gone = self.root / "aside" / f"gone-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another process mends the same entry
            os.replace(self.state_folder(key), gone)
            _remove(gone)

    def load_result(self, key: str) -> dict[str, Any] | None:
        """A probe's result, None if there is none.

        Raises:
            Damaged: it is there but not as it was written.
        """
        path = self.root / "results" / f"{key}.json"
        try:
            body = _body(_content(path), key, path)
            if "key" in body:
                return dict(body["result"])
            self._upgrade(path, {"format": FORMAT, "key": key, "result": body})
            self.without_key += 1
            return body
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{path}: {error}") from error

    def save_result(self, key: str, result: Mapping[str, Any]) -> None:
        """Writes a probe's result, whole or not at all."""
        body = {"format": FORMAT, "key": key, "result": dict(result)}
        self.write_json(self.root / "results" / f"{key}.json", {"digest": digest(body), "body": body})

    def discard_result(self, key: str) -> None:
        """Drops a probe's result, e.g. a damaged one."""
        path = self.root / "results" / f"{key}.json"
        with contextlib.suppress(FileNotFoundError):
            _remove(path) if path.is_dir() else path.unlink()

    def _predictions(self, key: str) -> Path:
        return self.root / "predictions" / f"{key}.safetensors"

    def load_predictions(self, key: str) -> dict[str, Any] | None:
        """Named tensors of what a state answered, None if there are none.

        Raises:
            Damaged: they are there but not as they were written for this key.
        """
        found = _read_noted(self._predictions(key), key)
        return None if found is None else found[0]

    def save_predictions(self, key: str, tensors: Mapping[str, Any]) -> None:
        """Writes named tensors of what a state answered, whole or not at all.

        Raises:
            OSError: the disk is full or the file can't be written.
        """
        with self._aside(key) as folder:
            path = folder / "predictions.safetensors"
            _write_noted(path, key, tensors, {})
            if self._predictions(key).is_dir():
                self.discard_predictions(key)
            os.replace(path, self._predictions(key))
        self._sync(self.root / "predictions")

    def discard_predictions(self, key: str) -> None:
        """Drops predictions, e.g. damaged ones."""
        _remove(self._predictions(key))

    def write_json(self, path: Path, value: Any) -> None:
        """Writes one JSON file aside and renames it."""
        aside = self.root / "aside" / uuid.uuid4().hex
        try:
            with aside.open("w", encoding="utf-8") as file:
                _hold(file.fileno())
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
        """Holds the key alone among processes; ``waiting()`` is called once if another one has it.

        Raises:
            UserError: the file system has no locks.
        """
        path = self.root / "locks" / key
        file = self._locked(path, waiting)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            file.close()

    @contextlib.contextmanager
    def attempt(self, key: str) -> Iterator[bool]:
        """As ``lock``, but where another process has it, False at once.

        Raises:
            UserError: the file system has no locks.
        """
        path = self.root / "locks" / key
        try:
            file = self._locked(path, _give_up)
        except _Taken:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            file.close()

    def _locked(self, path: Path, waiting: Any = None) -> IO[str]:
        """The file at a path, open and locked: the one that is there, not one that its last holder has just removed."""
        while True:
            try:
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                path.unlink(missing_ok=True)  # a link stands in the lock's place
                continue
            try:
                if not _take(file.fileno()):
                    if waiting is not None:
                        waiting()
                        waiting = None
                    fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file.fileno(), path):
                    return file
            except OSError as error:
                file.close()
                raise UserError(
                    f"can't lock {path}: {error.strerror}; outputs={self.root.parent} must lie on a file system with "
                    "file locks (flock)"
                ) from error
            except BaseException:
                file.close()
                raise
            file.close()

    @contextlib.contextmanager
    def needed(self, keys: Iterable[str]) -> Iterator[None]:
        """While inside, no ``prune`` of another process drops entries with these keys."""
        path = self.root / "plans" / uuid.uuid4().hex
        with self.lock("plans"):
            file = self._locked(path)
            file.write("".join(f"{key}\n" for key in keys))
            file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            file.close()

    def _needed_by_others(self) -> set[str]:
        found: set[str] = set()
        for path in _listed(self.root / "plans"):
            if self._free(path):
                _remove(path)
            elif path.is_file():
                found |= set(path.read_text(encoding="ascii").split())
        return found

    def usage(self) -> Usage:
        """Counts and bytes of what is there."""
        states = [d for d in _listed(self.root / "states") if d.is_dir()]
        results = [f for f in _listed(self.root / "results") if f.suffix == ".json"]
        rest = [*_listed(self.root / "aside"), *_listed(self.root / "checkpoints")]
        kept = [f for f in _listed(self.root / "predictions") if f.suffix == ".safetensors"]
        return Usage(
            len(states),
            sum(map(_bytes, states)),
            len(results),
            sum(map(_bytes, results)),
            len(rest),
            sum(map(_bytes, rest)),
            len(kept),
            sum(map(_bytes, kept)),
        )

    def prune(self, older_than_days: float | None = None) -> Usage:
        """Drops leftovers of killed processes and, if an age is given, what is stored and wasn't made since.

        What a running process has locked, or its plan needs, stays. Returns what was dropped.
        """
        limit = None if older_than_days is None else time.time() - older_than_days * 86400
        with self.lock("plans"):
            needed = self._needed_by_others()
            rest = [p for p in _listed(self.root / "aside") if self._free(p)]
            rest += [
                p for p in _listed(self.root / "checkpoints") if self._free(self.root / "locks" / p.name)
            ]
            old = [
                p
                for name in ENTRIES
                for p in _listed(self.root / name)
                if limit is not None and _made(p) < limit
                if (key := p.name.removesuffix(".json").removesuffix(".safetensors")) not in needed
                if self._free(self.root / "locks" / key)
            ]
            states, results, kept = ([p for p in old if p.parent.name == name] for name in ENTRIES)
            sizes = [sum(map(_bytes, paths)) for paths in (states, results, rest, kept)]
            for path in (*rest, *results, *kept):
                _remove(path)
            for path in states:
                self.discard(path.name)
            for path in _listed(self.root / "locks"):
                if path.name != "plans" and self._free(path):
                    _remove(path)
        return Usage(len(states), sizes[0], len(results), sizes[1], len(rest), sizes[2], len(kept), sizes[3])

    def _free(self, path: Path) -> bool:
        """Whether no process holds the file or folder."""
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return True
        try:
            return _take(handle)
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        folder = self.root / "aside" / f"{key[:16]}-{uuid.uuid4().hex}"
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        try:
            _hold(handle)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    @staticmethod
    def _sync(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_state(folder: Path, state: State, provenance: Mapping[str, Any], key: str) -> None:
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
        "key": key,
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


def save_checkpoint(folder: Path, tensors: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """A stage's own position as one file; its folder's name is the key that it belongs to.

    Args:
        header: JSON; under the digest with the key, as names and contents of the tensors are.

    Raises:
        OSError: the disk is full or the file can't be written.
    """
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "checkpoint.part"
    _write_noted(aside, folder.name, tensors, header)
    aside.replace(folder / CHECKPOINT)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(tensors, header) as ``save_checkpoint`` wrote them; None if there is no such file.

    Raises:
        Damaged: it isn't what was written for this folder's key, or an earlier version wrote it.
    """
    return _read_noted(folder / CHECKPOINT, folder.name)


def _write_noted(path: Path, key: str, tensors: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Tensors as one file whose header holds an entry: key, digest of the tensors, and what is told beside them."""
    body = {"format": FORMAT, "key": key, "tensors": tensors_digest(tensors), "header": header}
    save_tensors(tensors, path, json.dumps({"digest": digest(body), "body": body}))


def _read_noted(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        _refuse_pipes(path)
        with safe_open(path, framework="pt") as file:
            body = _body(file.metadata()["note"].encode(), key, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if body["key"] != key or tensors_digest(tensors) != body["tensors"]:
            raise Damaged(f"{path}: its tensors were altered")
        return tensors, body["header"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: {type(error).__name__} {error}") from error


def discard_checkpoint(folder: Path) -> None:
    """Drops a stage's own checkpoint, e.g. a damaged one."""
    _remove(folder / CHECKPOINT)


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of named tensors: names, types, shapes, contents."""
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_state(folder: Path, body: Mapping[str, Any], key: str) -> State:
    """The inverse of ``write_state``; the tensors' order is the one they were written in.

    Raises:
        ValueError, KeyError, TypeError: the body doesn't describe these tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from compressbench.state import State

    try:
        flat = load_file(folder / "tensors.safetensors")
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    groups: dict[str, dict[str, Any]] = {}
    for full in body["order"]:
        group, _, name = full.partition("/")
        groups.setdefault(group, {})[name] = flat[full]
    return State(body["model"], groups, tuple(body["edits"]), body["policies"], body["facts"], key)


def _body(text: bytes, key: str, place: Path) -> dict[str, Any]:
    """The body of a whole entry that was written for this key, or, in format 1, for one that it doesn't tell.

    Raises:
        Damaged: it was altered, or belongs to another key.
        ValueError, KeyError, TypeError: it is no entry at all.
        UserError: it is whole and of a format unknown here.
    """
    entry = json.loads(text)
    body = entry["body"]
    if digest(body) != entry["digest"]:
        raise Damaged(f"{place}: was altered")
    form = body.get("format", 1)
    if form not in (1, FORMAT):
        raise UserError(
            f"{place}: written by another version of compressbench (format {form!r}; this one reads 1 and {FORMAT}) and "
            "left alone; set outputs=FOLDER to another one, or use that version"
        )
    if form == FORMAT and body["key"] != key:
        raise Damaged(f"{place}: this is the entry of {body['key']}")
    return body


def _content(path: Path) -> bytes:
    """A file's bytes; of a pipe or a device, which may never end, none are read."""
    _refuse_pipes(path)
    return path.read_bytes()


def _refuse_pipes(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is no file")


def _take(handle: int) -> bool:
    """Locks an open file or folder; False if another one has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hold(handle: int) -> None:
    """Marks what is being written as somebody's; where there are no locks nothing is marked."""
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(handle: int, path: Path) -> bool:
    try:
        there, own = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _made(path: Path) -> float:
    """When an entry was made; never, for one that has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        return path.stat().st_size
    except OSError:  # it has just gone
        return 0
