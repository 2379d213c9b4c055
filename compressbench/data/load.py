"""From a dataset's config to a Dataset: read, subset, hold out, thin to a long tail, describe. No torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench import specs
from compressbench.data.coarse import Tail, coarse_of, merged, place_of, tail_of, tailed
from compressbench.data.dataset import Dataset, Raw, fingerprint, grouped
from compressbench.data.examples import LABELS, PREFIX, Examples
from compressbench.data.splits import allocate, long_tail, pick
from compressbench.errors import UserError, nearest, reason
from compressbench.paths import is_utf8
from compressbench.ragged import Ragged
from compressbench.seeds import derive_seed
from compressbench.tasks.images.classification import (
    augmented_by,
    check_pictures,
    classification,
    normalised_by,
)
from compressbench.tasks.task import ASKED

if TYPE_CHECKING:
    from compressbench.tasks.task import Task

KEYS = (
    "name",
    "read",
    "train_size",
    "test_size",
    "subset_seed",
    "imbalance",
    "cut",
    "coarse",
    "tail",
    "validation",
    "augment",
    "normalise",
    "task",
)


def load(config: Mapping[str, Any], trusted: Iterable[str] = ()) -> Dataset:
    """Reads what ``config["read"]`` names and makes train, validation and test of it.

    In this order: ``train_size`` and ``test_size`` draw a stratified subset; ``validation`` (a count, or a
    share below 1) is held out of train, stratified (at 0 one
    that the source publishes is taken); ``imbalance`` thins what is left of train, and only that,
    to an exponential long tail; ``cut`` leaves single classes of it so many examples; ``tail`` thins the
    sub-groups inside of each class. Before all of that ``coarse`` merges classes. All draws come from
    ``subset_seed``. Mean and std are those of the resulting train split, or what ``normalise`` says, as a
    net with published weights wants it. A split that its source sorts by class is mixed, always in the same
    way, so that its first n examples are no single class; ``Examples.rows`` says where each example came
    from.

    Args:
        config: see ``conf/dataset/*.yaml``.
        trusted: modules of the user's that ``read`` may name.

    Raises:
        UserError: a key is unknown or out of range, or the data are missing, truncated, altered or malformed.
    """
    for key in config:
        if key not in KEYS:
            raise UserError(f"dataset: unknown key {key!r}; {nearest(str(key), KEYS)}")
    read = config.get("read")
    if not isinstance(read, Mapping) or specs.TARGET not in read:
        raise UserError(
            "dataset.read names no reader: it needs _target_, e.g. compressbench.data.folder.image_folder"
        )
    specs.check(read, "dataset.read", trusted, parts=("data",))
    settings = _settings(config)
    how = _task_of(config, trusted)
    raw = specs.build(read, "dataset.read")
    name = str(config.get("name") or str(read[specs.TARGET]).rpartition(".")[2])
    _check(raw, name, pictures="task" not in config)
    return _prepare(raw, name, how, **settings)


def _task_of(config: Mapping[str, Any], trusted: Iterable[str]) -> Callable[..., Task]:
    """(train examples, classes, name) -> the task that the config names; of pictures where it names none."""
    spec, augment, normalise = (config.get(key) for key in ("task", "augment", "normalise"))
    if spec is None:
        augmented_by(augment), normalised_by(normalise)
        return functools.partial(classification, augment=augment, normalise=normalise)
    if not isinstance(spec, Mapping) or specs.TARGET not in spec:
        raise UserError(f"dataset.task={spec!r} names no task: it needs _target_, a function that makes one")
    for key, value in (("augment", augment), ("normalise", normalise)):
        if value:
            raise UserError(
                f"dataset.{key} is for pictures; what {spec[specs.TARGET]} takes stands in dataset.task"
            )
    specs.check({**spec, specs.PARTIAL: True}, "dataset.task", trusted, parts=("tasks",))
    made: Callable[..., Task] = specs.build({**spec, specs.PARTIAL: True}, "dataset.task")
    return made


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings beside the reader, checked as far as can be without the data."""
    sizes = {key: config.get(key) for key in ("train_size", "test_size")}
    for key, size in sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise UserError(f"dataset.{key}={size!r} is no positive number of examples")
    imbalance = config.get("imbalance")
    if imbalance is not None and not (_is_number(imbalance) and 1 <= imbalance < math.inf):
        raise UserError(f"dataset.imbalance={imbalance!r}; it is largest class over smallest, 1 or more")
    validation = config.get("validation", 0)
    if not (_is_number(validation) and 0 <= validation < math.inf) or (
        validation >= 1 and validation != int(validation)
    ):
        raise UserError(
            f"dataset.validation={validation!r} is neither a share in [0, 1) nor a number of examples"
        )
    seed = config.get("subset_seed", 0)
    if type(seed) is not int:
        raise UserError(f"dataset.subset_seed={seed!r} is no whole number")
    return {
        **sizes,
        "imbalance": imbalance,
        "cut": _cuts(config.get("cut")),
        "coarse": coarse_of(config.get("coarse")),
        "tail": tail_of(config.get("tail")),
        "validation": validation,
        "seed": seed,
    }


def _cuts(wanted: Any) -> dict[str, int]:
    """Classes, by name or number, and how many training examples are left of each."""
    if wanted is None:
        return {}
    if not isinstance(wanted, Mapping):
        raise UserError(
            f"dataset.cut={wanted!r} is no mapping of classes to numbers of examples, as {{8: 15}}"
        )
    for key, left in wanted.items():
        if type(left) is not int or left < 1:
            raise UserError(f"dataset.cut: {key!r}: {left!r} is no positive number of training examples")
    return {str(key): left for key, left in wanted.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(raw: Any, name: str, pictures: bool) -> None:
    if not isinstance(raw, Raw):
        raise UserError(
            f"dataset {name}: the reader returned {type(raw).__name__}; it must return a compressbench Raw"
        )
    for word, texts in (("class", raw.classes), ("licence", [raw.licence])):
        for text in texts:
            _check_text(text, f"dataset {name}: {word}")
    for part, split in (("train", raw.train), ("test", raw.test), ("validation", raw.validation)):
        if part == "validation" and split is None:
            continue
        place = f"dataset {name}, {part}"
        if not isinstance(split, Examples):
            raise UserError(
                f"{place}: {type(split).__name__} is no examples; Split.of(images, labels) or Examples.of(labels, name=…)"
            )
        if pictures:
            check_pictures(split, place)
        labels = split.labels
        _check_numbers({**split.columns, "labels": labels, "positions": split.rows}, place)
        if isinstance(labels, Ragged):
            raise UserError(
                f"{place}: labels are ragged; one row an example is wanted, filled up where it must"
            )
        for column, values in split.columns.items():
            if column == LABELS or "/" in column or column.startswith(PREFIX):
                raise UserError(f"{place}: a column can't be called {column!r}; a plain name is wanted")
            if not len(values) == len(labels) == len(split.rows) > 0:
                raise UserError(
                    f"{place}: {len(values)} {column}, {len(labels)} labels, {len(split.rows)} positions"
                )
        if _are_classes(labels) and (labels.min() < 0 or labels.max() >= len(raw.classes)):
            raise UserError(
                f"{place}: labels {labels.min()}..{labels.max()}, but there are {len(raw.classes)} classes"
            )
        for attribute, values in raw.attributes.get(part, {}).items():
            if not isinstance(values, np.ndarray) or values.shape != (len(labels),):
                form = values.shape if isinstance(values, np.ndarray) else type(values).__name__
                raise UserError(
                    f"{place}: attribute {attribute!r} is {form}, not an array of {len(labels)} values"
                )
    if raw.validation is not None and set(raw.validation.columns) != set(raw.train.columns):
        raise UserError(f"dataset {name}: validation has other columns than train")
    if set(raw.train.columns) != set(raw.test.columns):
        raise UserError(
            f"dataset {name}: train has {', '.join(raw.train.columns)}, test {', '.join(raw.test.columns)}"
        )
    if pictures and raw.train["images"].shape[1:] != raw.test["images"].shape[1:]:
        raise UserError(
            f"dataset {name}: train is {raw.train['images'].shape[1:]}, test {raw.test['images'].shape[1:]}"
        )


def _check_numbers(columns: Mapping[str, Any], place: str) -> None:
    for name, column in columns.items():
        arrays = (column.values, column.starts) if isinstance(column, Ragged) else (column,)
        for array in arrays:
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                form = f"of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
                raise UserError(f"{place}: {name}: {form}; an array of numbers or Ragged.of(rows) is wanted")
        if isinstance(column, Ragged) and (wrong := column.fault()):
            raise UserError(f"{place}: {name}: {wrong}")


def _plain(attribute: np.ndarray, where: str) -> np.ndarray:
    """An attribute as numbers or texts; of objects, as tables hold texts, it can't be said what they are."""
    if attribute.dtype.kind in "biufUS":
        return attribute
    texts = attribute.tolist()
    if attribute.dtype.kind != "O" or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{where}: values of {attribute.dtype} that are no texts; numbers or texts are wanted"
        )
    return np.array(texts)


def _are_classes(labels: Any) -> bool:
    return isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype == np.int64


def _strata(examples: Examples) -> np.ndarray:
    """(n,) what a draw keeps the shares of: the classes; one stratum where labels are none."""
    return examples.labels if _are_classes(examples.labels) else np.zeros(len(examples), np.int64)


def _check_text(text: Any, where: str) -> None:
    """Refuses what no record could be written of, before anything is trained on it."""
    if not isinstance(text, str):
        raise UserError(f"{where} {text!r} is no text")
    if not is_utf8(text):
        raise UserError(
            f"{where} {text!r} is not valid UTF-8; rename it (a folder of pictures is named after its class)"
        )


def _prepare(
    raw: Raw,
    name: str,
    how: Callable[..., Task],
    train_size: int | None,
    test_size: int | None,
    imbalance: float | None,
    cut: Mapping[str, int],
    coarse: Mapping[str, tuple[Any, ...]],
    tail: Tail | None,
    validation: float,
    seed: int,
) -> Dataset:
    raw = merged(raw, coarse, name) if coarse else raw
    classes = max(1, len(raw.classes))

    def random(purpose: str) -> np.random.RandomState:
        # RandomState, because its streams are frozen for good; those of default_rng may change with numpy.
        return np.random.RandomState(derive_seed("dataset", seed, purpose) % 2**32)

    rows = {"train": np.arange(len(raw.train)), "test": np.arange(len(raw.test))}
    labels = {"train": _strata(raw.train), "test": _strata(raw.test)}
    for part, size in (("train", train_size), ("test", test_size)):
        if size is not None:
            counts = np.bincount(labels[part], minlength=classes)
            _check_size(f"dataset.{part}_size={size}", name, part, size, counts)
            shares = allocate(counts, size, np.minimum(counts, 1), counts)
            rows[part] = pick(labels[part], shares, random(part))
    if validation:
        here = labels["train"][rows["train"]]
        counts = np.bincount(here, minlength=classes)
        most = np.maximum(counts - 1, 0)
        size = int(validation) if validation >= 1 else max(1, round(validation * len(here)))
        if size > most.sum():
            raise UserError(
                f"dataset.validation={validation}: {name} can spare {most.sum()} of its {len(here)} training"
                " examples at most, since every class keeps one"
            )
        held = pick(here, allocate(counts, size, counts * 0, most), random("validation"))
        rows["validation"] = rows["train"][held]
        rows["train"] = np.delete(rows["train"], held)
    if imbalance is not None:
        here = labels["train"][rows["train"]]
        sizes = long_tail(np.bincount(here, minlength=classes), imbalance)
        if sizes.min() < 1:
            raise UserError(
                f"dataset.imbalance={imbalance}: a largest class of {sizes.max()} leaves the smallest empty"
            )
        rows["train"] = rows["train"][pick(here, sizes, random("imbalance"))]
    if cut:
        here = labels["train"][rows["train"]]
        sizes = _cut_sizes(cut, np.bincount(here, minlength=classes), raw.classes, name)
        rows["train"] = rows["train"][pick(here, sizes, random("cut"))]
    if tail is not None:
        known = raw.attributes.get("train", {})
        if tail.by not in known:
            raise UserError(
                f"dataset.tail: by: {name} has no attribute {tail.by!r}; {nearest(tail.by, known)}"
            )
        values = _plain(known[tail.by], f"dataset {name}, train: attribute {tail.by!r}")[rows["train"]]
        kept_rows = tailed(labels["train"][rows["train"]], values, tail, random("tail"), name)
        rows["train"] = rows["train"][kept_rows]

    source = {"train": raw.train, "validation": raw.train, "test": raw.test}
    attributes = {**raw.attributes, "validation": raw.attributes.get("train", {})}
    if raw.validation is not None and "validation" not in rows:
        rows["validation"], source["validation"] = np.arange(len(raw.validation)), raw.validation
        attributes["validation"] = raw.attributes.get("validation", {})
    splits: dict[str, Examples] = {}
    kept: dict[str, dict[str, np.ndarray]] = {}
    for part, chosen in rows.items():
        here = source[part].labels[chosen]
        if _are_classes(here) and (np.diff(here) >= 0).all():
            chosen = random(f"mix {part}").permutation(chosen)
        splits[part] = source[part].take(chosen)
        kept[part] = {
            key: _plain(array, f"dataset {name}, {part}: attribute {key!r}")[chosen]
            for key, array in attributes.get(part, {}).items()
        }
    task = _made(how, splits["train"], raw.classes, name)
    if hasattr(task, "prepared"):  # what is made of an example once, as tokens of a text
        splits = {part: task.prepared(split) for part, split in splits.items()}
    carried = {part: arrays for part, arrays in kept.items() if arrays}
    grouping, groups = grouped(splits, carried)
    dataset = Dataset(name=name, splits=grouping, task=task, groups=groups, licence=raw.licence)
    return replace(dataset, fingerprint=fingerprint(dataset, carried))


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """What the task has to say of the data, sentences without a full stop; see ``tasks.task.Remarks``."""
    says = getattr(dataset.task, "remarks", None)
    return tuple(says(dataset.splits)) if says is not None else ()


def _cut_sizes(cut: Mapping[str, int], counts: np.ndarray, classes: tuple[str, ...], name: str) -> np.ndarray:
    """(classes,) training examples left of each class."""
    if len(classes) < 2:
        raise UserError(f"dataset.cut: {name} has no classes")
    sizes = counts.copy()
    said: dict[int, str] = {}
    for key, left in cut.items():
        place = place_of(key, classes, f"dataset.cut: {name} has")
        if place in said:
            raise UserError(f"dataset.cut: {said[place]!r} and {key!r} are one class of {name}")
        if left > counts[place]:
            raise UserError(
                f"dataset.cut: {key!r}: {left} training examples, but {name} has {counts[place]} of this class left"
            )
        sizes[place], said[place] = left, key
    return sizes


def _made(how: Callable[..., Task], train: Examples, classes: tuple[str, ...], name: str) -> Task:
    """The task that a config's function makes.

    Raises:
        UserError: it fails, or what it returns is no task.
    """
    try:
        made = how(train, classes, name)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a user's function may fail in any way at all
        said, kind = reason(error), type(error).__name__
        raise UserError(f"dataset.task: {said if said.startswith(kind) else f'{kind}: {said}'}") from error
    lacking = [asked for asked in ASKED if not hasattr(made, asked)]
    if lacking:
        raise UserError(
            f"dataset.task: a {type(made).__name__} is no task, it has no {lacking[0]}; a function of (train examples, "
            "classes, name) is wanted that returns one, see compressbench.tasks.task"
        )
    if not isinstance(made.classes, tuple | list) or not isinstance(made.inputs, tuple | list):
        raise UserError(
            f"dataset.task: classes and inputs of the {type(made).__name__} are no tuples of names; a function of (train "
            "examples, classes, name) that returns one is wanted"
        )
    return made


def _check_size(setting: str, name: str, part: str, size: int, counts: np.ndarray) -> None:
    if size > counts.sum():
        raise UserError(f"{setting}, but {name} has {counts.sum():,} {part} examples")
    if size < (counts > 0).sum():
        raise UserError(
            f"{setting} is less than one example for each of the {(counts > 0).sum()} classes of {name}"
        )
