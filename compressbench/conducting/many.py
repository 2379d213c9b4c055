"""Two populations from files: predictions of many nets beside those of many others, on the same examples."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compressbench.artefacts import told
from compressbench.artefacts.predictions import Predictions
from compressbench.comparing import material
from compressbench.comparing.answers import NONE, answers
from compressbench.comparing.arrays import Ints
from compressbench.comparing.material import Material
from compressbench.conducting.wishes import Wishes
from compressbench.errors import UserError
from compressbench.records import Metric, Record
from compressbench.runs import provenance
from compressbench.store import digest

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.populations import Population, PopulationProbe

REFERENCE, OTHER = "dense", "compressed"
RECIPE, SCALE, MOMENT = "compare", "as given", "populations"
KINDS = (".npz", ".npy", ".csv", ".parquet")
MOST = 1000
"""Files of a population at most."""


@dataclass(frozen=True)
class Crowd:
    """Predictions of many nets in one order of examples.

    Attributes:
        files: their names.
        labels: (nets, n) int64 answers, -1 for none.
    """

    files: tuple[str, ...]
    labels: Ints


@dataclass(frozen=True)
class _Classes:
    """As much of a task as probes over populations ask for."""

    classes: tuple[str, ...]
    metric: str = "top1"
    inputs: tuple[str, ...] = ()

    def right(self, said: Tensor, labels: Any) -> Tensor:
        """(n,) bool."""
        return said == labels


def populations(reference: Sequence[str], others: Sequence[str], wishes: Wishes) -> list[Record]:
    """Figures of both populations, the reference's first, as records of the moment ``populations``.

    Args:
        reference, others: files of predictions, folders of such, or patterns with ``*``.
        wishes: data (with labels; None where the files hold them), attributes, classes and what is given of the answers.

    Raises:
        UserError: one line: nothing there, no predictions, fewer than two nets, one twice, other examples, other classes,
            or no labels.
    """
    read = {}
    for name, given in ((REFERENCE, reference), (OTHER, others)):
        files = [_predictions(path, wishes) for path in listed(given)]
        if len(files) < 2:
            raise UserError(
                f"compare --against: {len(files)} file of the {name} nets; a population is of two or more"
            )
        _no_twins(files)
        read[name] = files
    first = read[REFERENCE][0]
    asked = _asked(first, wishes)
    truth = material.labels_of(asked, "--against")
    columns = first.answers.values.shape[1]
    if int(truth.max()) >= columns:
        raise UserError(f"{first.name}: answers {columns} classes, and {asked.name} has label {truth.max()}")
    known = np.flatnonzero(truth != NONE)
    asked = asked if len(known) == asked.n else asked.taken(known)
    crowds = {name: _crowd(files, asked, columns) for name, files in read.items()}
    return _records(crowds, asked, columns)


def listed(given: Sequence[str]) -> list[Path]:
    """Files that a user names: themselves, those in a folder, or those that a pattern finds; sorted within each.

    Raises:
        UserError: nothing there, too many, or one twice.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if any(sign in text for sign in "*?[") and not path.exists():
            own = sorted(Path(name) for name in glob.glob(str(path)))
        elif path.is_dir():
            own = sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS and p.is_file())
        else:
            own = [path]
        if not own:
            raise UserError(
                f"compare --against: {text[:100]}: no predictions ({', '.join(KINDS)}) are found there"
            )
        found += own
    if len(found) > MOST:
        raise UserError(f"compare --against: {len(found):,} files; {MOST:,} a population are the most")
    seen = [path.resolve() for path in found]
    twice = next((path for path in seen if seen.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"compare --against: {twice.name} is named twice in one population")
    return found


def _predictions(path: Path, wishes: Wishes) -> Predictions:
    found = told.read(str(path), wishes.given)
    if not isinstance(found, Predictions):
        raise UserError(
            f"compare --against: {path.name} is a model; populations are of predictions ({', '.join(KINDS)}), which any "
            "runtime can write"
        )
    return found


def _no_twins(files: Sequence[Predictions]) -> None:
    seen: dict[str, str] = {}
    for each in files:
        if each.identity is None:
            continue
        if each.identity in seen:
            raise UserError(
                f"{each.name} and {seen[each.identity]} are the same, byte by byte; a population is of different nets"
            )
        seen[each.identity] = each.name


def _asked(first: Predictions, wishes: Wishes) -> Material:
    if wishes.data is None:
        if wishes.attributes is not None:
            raise UserError("--attributes: goes with a folder of pictures, --data FOLDER")
        found = material.of_predictions(first)
        if found.labels is None:
            raise UserError(
                f"{first.name}: holds no labels beside its answers; --data says what the examples are"
            )
        return found
    trust = wishes.given.trust
    found = material.read(wishes.data, [], True, trust.prefixes, wishes.config_dir)
    if wishes.attributes is not None:
        words = [wishes.data] if isinstance(wishes.data, str | Path) else wishes.data
        found = material.attributed(found, Path(words[0]).expanduser(), Path(wishes.attributes))
    if wishes.classes is not None:
        found = material.mapped(found, wishes.classes, first.answers.values.shape[1])
    return found


def _crowd(files: Sequence[Predictions], asked: Material, columns: int) -> Crowd:
    rows = []
    for each in files:
        own = each.answers
        if own.values.shape[1] != columns:
            raise UserError(
                f"{each.name}: {own.values.shape[1]} classes, and {columns} in the first file; predictions of other data?"
            )
        scores = material.aligned(each, asked)
        if own.labels is not None and not _same_labels(each, asked):
            raise UserError(
                f"{each.name}: its labels are not those of {asked.name}; predictions of other data?"
            )
        rows.append(np.asarray(answers(scores).labels, np.int64))
    return Crowd(tuple(each.name for each in files), np.stack(rows))


def _same_labels(each: Predictions, asked: Material) -> bool:
    """Whether the labels in a file, brought into the examples' order as its answers are, are the examples'."""
    from dataclasses import replace

    own = each.answers
    assert own.labels is not None
    as_scores = replace(own, values=np.asarray(own.labels, np.float64)[:, None], labels=None)
    found = material.aligned(as_scores, asked)[:, 0]
    return bool((found == asked.labels).all())


def _bench(asked: Material, columns: int) -> Bench:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples

    given = asked.classes or ()
    classes = tuple(given) + tuple(f"class {k}" for k in range(len(given), columns))
    groupings = {name: codes for name, (codes, _) in asked.groups.items()}
    examples = Examples({}, asked.labels, np.arange(asked.n), groupings)
    groups = {name: names for name, (_, names) in asked.groups.items()}
    dataset = Dataset(asked.name, {"test": examples}, cast("Any", _Classes(classes)), groups)
    return Bench(dataset, seed=0)


def _population(name: str, crowd: Crowd) -> Population:
    import torch

    from compressbench.populations import Member, Population

    def member(seed: int) -> Member:
        def none() -> Tensor:
            raise UserError("of predictions from files only the classes that they name are kept")

        return Member(f"{name} {crowd.files[seed]}", seed, lambda: torch.as_tensor(crowd.labels[seed]), none)

    return Population([member(seed) for seed in range(len(crowd.files))])


def _records(crowds: dict[str, Crowd], asked: Material, columns: int) -> list[Record]:
    from compressbench.probes.agreement import Agreement
    from compressbench.probes.exemplars import Exemplars
    from compressbench.probes.impact import Impact
    from compressbench.probes.subgroups import CLASSES, Subgroups

    bench = _bench(asked, columns)
    many = {name: _population(name, crowd) for name, crowd in crowds.items()}
    keys = {name: digest([name, crowd.files, crowd.labels.tolist()]) for name, crowd in crowds.items()}
    # which net of one population was made of which of the other nobody says: they are no pairs
    by = list(bench.dataset.groups) or CLASSES
    probes: dict[str, PopulationProbe] = {
        "agreement": Agreement(),
        "impact": Impact(),
        "exemplars": Exemplars(),
        "subgroups": Subgroups(by=by, pairs=False),
    }
    versions, machine = provenance.versions(), provenance.machine("cpu", 1)

    def rows() -> Iterator[Record]:
        for order, name in enumerate(crowds):
            for probe, built in probes.items():
                for metric in built.measure_many(many[name], many[REFERENCE], bench):
                    yield _record(metric, name, order, probe, asked, keys, versions, machine)

    return list(rows())


def _record(
    metric: Metric,
    name: str,
    order: int,
    probe: str,
    asked: Material,
    keys: dict[str, str],
    versions: str,
    machine: str,
) -> Record:
    return Record(
        recipe=RECIPE, model="predictions", dataset=asked.name, scale=SCALE, hardware="cpu", seed=0, series=name,
        moment=MOMENT, state=name, order=order, density=1.0, compute=0.0, probe=probe, metric=metric.name,
        group=metric.group, value=metric.value, unit=metric.unit, basis=metric.basis, n=metric.n, note=metric.note,
        key=keys[name], reference=keys[REFERENCE], dtype="", versions=versions, machine=machine,
        artefact=metric.artefact,
    )  # fmt: skip
