"""That pictures are one task among others: sentences of numbered words with a mask, and pictures with several tags.

What a task must bring is all that stands in ``Tokens`` and ``Tags``; nothing outside of them knows of words or tags.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.cli.run import composed
from compressbench.data.dataset import Raw
from compressbench.data.examples import Examples
from compressbench.data.load import load
from compressbench.deploying.handing_over import export
from compressbench.errors import UserError
from compressbench.inputs import Inputs
from compressbench.metrics import named
from compressbench.outputs import Outputs
from compressbench.ragged import Ragged
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import Experiment, prepare
from compressbench.tasks.images.classification import Classification, classification
from compressbench.tasks.task import NoSurface, Pieces, Placed
from compressbench.views import View

WORDS, LONGEST = 20, 9


@dataclass(frozen=True)
class Tokens:
    """Classification of sentences: the column ``words`` (ragged, word 0 is none) as ids and a mask."""

    classes: tuple[str, ...]
    metric: str = "top1"
    inputs: tuple[str, ...] = ("ids", "mask")

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        ids, there = examples["words"].padded(0, LONGEST)
        return ids, there.float()

    def varies(self) -> bool:
        return False

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        return ()

    def blank(self, n: int) -> Inputs:
        return torch.zeros(n, LONGEST, dtype=torch.int64), torch.ones(n, LONGEST)

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        ids = torch.randint(1, WORDS, (n, LONGEST), generator=generator)
        return ids, (torch.rand(n, LONGEST, generator=generator) < 0.8).float().index_fill(
            1, torch.tensor(0), 1
        )

    def placed(self, module: nn.Module) -> Placed:
        return Placed(module, tuple)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, labels)

    def answers(self, outputs: Outputs) -> Tensor:
        return named(outputs.logits)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        return answers == labels

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        return Pieces(outputs.logits.float().log_softmax(-1), torch.arange(len(labels)), labels)

    def surface(self, device: str = "cpu") -> NoSurface:
        return NoSurface("words can't be changed a little")

    def facts(self) -> dict[str, Any]:
        return {"@classes": len(self.classes), "@vocabulary": WORDS}

    def feeding(self) -> tuple[str, list[str]]:
        return "Inputs `ids` and `mask`:", ['inputs = {"ids": ids, "mask": mask}']

    def in_words(self) -> str:
        return f"up to {LONGEST} words"

    def identity(self) -> tuple[Any, ...]:
        return ("tokens", self.classes, WORDS, LONGEST)


def tokens(train: Examples, classes: tuple[str, ...], name: str) -> Tokens:
    return Tokens(classes)


class Reads(nn.Module):
    """A small net on words, their mean taken where the mask is."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.one = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.two = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.two(self.one(self.embedding(ids))) * mask.unsqueeze(-1)
        return self.head(x.sum(1) / mask.sum(1, keepdim=True))


def sentences() -> Raw:
    """Three classes, told apart by which words are frequent; ``long`` says which sentences are."""
    rng = np.random.RandomState(0)

    def split(n: int) -> tuple[Examples, dict[str, np.ndarray]]:
        labels = np.arange(n) % 3
        words = [1 + (rng.randint(0, 9, rng.randint(3, LONGEST + 1)) + 5 * y) % (WORDS - 1) for y in labels]
        return Examples.of(labels, words=Ragged.of(words)), {"long": np.array([len(w) > 5 for w in words])}

    (train, of_train), (test, of_test) = split(240), split(90)
    return Raw(train, test, ("a", "b", "c"), "made here", {"train": of_train, "test": of_test})


TRAIN = {"length": "6ep", "batch_size": 16, "lr": 0.1}
SHORT = {**TRAIN, "length": "2ep", "lr": 0.02}
RECIPE: list[tuple[str, str, dict[str, Any]]] = [
    ("init/model", "init", {}),
    ("train/sgd", "dense", TRAIN),
    ("prune/magnitude", "cut", {"fraction": 0.5, "of": "whole", "from": "dense"}),
    ("train/sgd", "pruned", SHORT),
    ("quantize/ptq", "rounded", {"examples": 64, "from": "dense", "split": "train"}),
    ("init/model", "fresh", {}),
    ("train/distill", "student", {**TRAIN, "objective": {"teacher": "dense"}}),
    ("exits/attach", "attached", {"points": ["one"], "side": ["mask"], "from": "dense"}),
    ("train/exits", "joint", SHORT),
    ("exits/choose", "early", {"budget": 0.9}),
]
SERIES = {"pruned": "pruned", "rounded": "rounded", "student": "student", "joint": "joint", "early": "early"}


def ready_on(
    folder: Path, dataset: dict[str, Any], build: dict[str, Any], recipe: dict[str, Any]
) -> Experiment:
    """The experiment of a recipe, given as in its YAML, on a data set and a net of this file's."""
    import yaml

    path = folder / "mine" / "recipe" / "tried.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    given = ["recipe=tried", "scale=smoke", "evaluation=none", "hardware=cpu1", f"outputs={folder / 'o'}"]
    given += [f"+probe@evaluation.probes.{p}={p}" for p in PROBES]
    config = composed(given, str(folder / "mine"))
    config["evaluation"]["probes"]["deployed"] = DEPLOYED
    config["dataset"] = dataset
    for stage in config["recipe"]["stages"].values():
        if "model" in stage:
            stage["model"] = {"name": "net", "build": build}
    return prepare({**config, "trust": ["test_tasks"]})


PROBES = (
    "accuracy",
    "loyalty",
    "forgetting",
    "cost",
    "robustness",
    "square",
    "shifted",
    "corruptions",
    "exits",
)
DEPLOYED = {
    "_target_": "compressbench.probes.deployed.Deployed",
    "runtimes": {
        "ort": {
            "_target_": "compressbench.hardware.onnxruntime_cpu.OnnxRuntimeCPU",
            "batches": [1, 4],
            "seconds": 0.01,
        }
    },
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, dict[tuple[str, str, str, str], Any]]:
    """The recipe on sentences, run; its records by series, probe, metric and group."""
    pytest.importorskip("onnxruntime")
    defaults = [{f"/stage/{y.split('/')[0]}@stages.{n}": y.split("/")[1]} for y, n, _ in RECIPE]
    recipe = {
        "defaults": [*defaults, "_self_"], "name": "tried",
        "stages": {n: settings for _, n, settings in RECIPE if settings},
        "compare": {"reference": "dense", "series": SERIES, "floor": False},
    }  # fmt: skip
    data = {
        "name": "sentences", "validation": 60,
        "read": {"_target_": "test_tasks.sentences"}, "task": {"_target_": "test_tasks.tokens"},
    }  # fmt: skip
    build = {"_target_": "test_tasks.Reads", "vocabulary": "@vocabulary", "classes": "@classes"}
    ready = ready_on(tmp_path_factory.mktemp("words"), data, build, recipe)
    rows = Executor(ready.plan, ready.store, ready.setting, Watcher()).run()
    return ready, {(r.series, r.probe, r.metric, r.group): r for r in rows}


def test_a_net_on_words_goes_through_everything(read: Any) -> None:
    """Trained, pruned, rounded, distilled, given exits with a policy, measured and lowered, each better than chance."""
    ready, rows = read
    for series in ("dense", *SERIES):
        assert rows[series, "accuracy", "top1", ""].value > 60, series
        assert 0 < rows[series, "loyalty", "probability_loyalty", ""].value <= 100
        assert {g for s, _, m, g in rows if (s, m) == (series, "recall")} == {"a", "b", "c"}
        if series != "early":
            assert rows[series, "deployed", "deployed_agreement", "ort"].value > 95, series
    assert Executor(ready.plan, ready.store, ready.setting, Watcher()).state("pruned").facts["density"] < 0.6
    # by hand: 9 words through 16 x 32 and 32 x 32, and 32 x 3 once
    assert rows["dense", "cost", "macs", ""].value == 9 * (16 * 32 + 32 * 32) + 32 * 3
    for probe, metric in (("robustness", "pgd_accuracy"), ("square", "square_accuracy")):
        assert rows["pruned", probe, metric, ""].note == "words can't be changed a little"
    assert "pictures" in rows["pruned", "shifted", "shifted_top1", ""].note
    assert "pictures" in rows["pruned", "corruptions", "corrupted_top1", ""].note


def test_what_is_exported_takes_words_and_mask(read: Any, tmp_path: Path) -> None:
    import onnxruntime

    ready, _ = read
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    for name in ("rounded", "joint"):
        view = View(executor.state(name), executor.bench(), name)
        told = export(ready, view, ready.plan.node(name), "onnx", tmp_path, tmp_path)
        assert "same class for 100.00 %" in told
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        ids, mask = view.bench.task.encode(view.bench.feed("test").head(5))
        found = session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]
        assert (found.argmax(1) == view.answers[:5].numpy()).all()


class Tags:
    """Pictures of which several things may be true: of each of them yes or no is said."""

    metric = "all_right"

    def __init__(self, pictures: Classification) -> None:
        self.pictures = pictures

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["pictures"], name)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.logits, labels)

    def answers(self, outputs: Outputs) -> Tensor:
        return outputs.logits > 0

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        return (answers == (labels > 0)).all(1)

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        both = torch.stack((-outputs.logits, outputs.logits), -1).flatten(0, 1).float()
        owners = torch.arange(len(labels)).repeat_interleave(labels.shape[1])
        return Pieces(F.logsigmoid(both), owners, labels.flatten().long())

    def surface(self, device: str = "cpu") -> NoSurface:
        return NoSurface("attacks are on one label an example")

    def identity(self) -> tuple[Any, ...]:
        return ("tags", *self.pictures.identity())


def tags(train: Examples, classes: tuple[str, ...], name: str) -> Tags:
    return Tags(classification(train, classes, name))


def tagged() -> Raw:
    """Bright above, bright on the left, or both, or neither."""
    rng = np.random.RandomState(0)

    def split(n: int) -> Examples:
        labels = np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], 1).astype(np.float32)
        images = rng.randint(0, 100, (n, 1, 8, 8))
        images[:, 0, :4] += (120 * labels[:, 0, None, None]).astype(int)
        images[:, 0, :, :4] += (30 * labels[:, 1, None, None]).astype(int)
        return Examples.of(labels, images=images.astype(np.uint8))

    return Raw(split(160), split(80), ("above", "left"), "made here")


def test_pictures_with_several_tags(tmp_path: Path) -> None:
    """Two answers an example: likelihood and loyalty are over all of them, accuracy wants both right."""
    stages: list[tuple[str, str, dict[str, Any]]] = [
        ("init/model", "init", {}),
        ("train/sgd", "dense", {**TRAIN, "length": "12ep"}),
        ("quantize/ptq", "rounded", {"examples": 64, "weights": 2, "split": "train"}),
    ]
    recipe = {
        "defaults": [
            *({f"/stage/{y.split('/')[0]}@stages.{n}": y.split("/")[1]} for y, n, _ in stages),
            "_self_",
        ],
        "name": "tried",
        "stages": {n: settings for _, n, settings in stages if settings},
        "compare": {"reference": "dense", "series": {"rounded": "rounded"}, "floor": False},
    }
    data = {
        "name": "tagged",
        "read": {"_target_": "test_tasks.tagged"},
        "task": {"_target_": "test_tasks.tags"},
    }
    build = {
        "_target_": "compressbench.models.lenet.LeNet300100", "shape": "@shape", "classes": "@classes",
    }  # fmt: skip
    ready = ready_on(tmp_path, data, build, recipe)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    rows = {(r.series, r.metric, r.group): r for r in executor.run()}
    view, reference = (View(executor.state(n), executor.bench(), n) for n in ("rounded", "dense"))
    task, test = executor.bench().task, executor.bench().feed("test")
    with torch.no_grad():
        own, other = (v.module(*task.encode(test)) for v in (view, reference))
    right = ((own > 0) == (test.labels > 0)).numpy()
    assert rows["rounded", "all_right", ""].value == pytest.approx(100 * right.all(1).mean())
    assert rows["dense", "all_right", ""].value > 60
    p, q = (torch.sigmoid(x).double().numpy() for x in (own, other))
    said = np.where(test.labels.numpy() > 0, p, 1 - p)
    assert rows["rounded", "nll", ""].value == pytest.approx(-np.log(said).mean(), rel=1e-3)
    assert rows["rounded", "nll", ""].n == 160
    assert rows["rounded", "label_loyalty", ""].value == pytest.approx(100 * ((p > 0.5) == (q > 0.5)).mean())
    above = test.labels[:, 0].numpy() > 0
    assert rows["rounded", "recall", "above"].value == pytest.approx(100 * right.all(1)[above].mean())
    assert rows["rounded", "recall", "above"].n == above.sum() == 40


# Examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True], ids=["arrays", "tensors"])
def test_rows_of_ragged_columns(there: bool) -> None:
    whole = Examples.of(
        [0, 1, 2, 0], {"long": np.array([0, 1, 0, 1])}, words=Ragged.of([[1], [2, 3], [], [4, 5, 6]])
    )
    whole = whole.to("cpu") if there else whole

    def lists(examples: Examples) -> list[list[int]]:
        column = examples["words"]
        ends = column.starts.tolist()
        return [column.values[a:b].tolist() for a, b in itertools.pairwise(ends)]

    picked = whole.take(torch.tensor([3, 0, 3]) if there else np.array([3, 0, 3]))
    assert lists(picked) == [[4, 5, 6], [1], [4, 5, 6]]
    assert picked.labels.tolist() == [0, 0, 0]
    assert picked.rows.tolist() == [3, 0, 3]
    assert picked.groupings["long"].tolist() == [1, 0, 1]
    assert lists(whole.take(whole.labels == 0)) == [[1], [4, 5, 6]]
    assert [lists(b) for b in whole.batches(3)] == [[[1], [2, 3], []], [[4, 5, 6]]]
    assert [len(p) for p in whole.split(3)] == [2, 1, 1]
    assert lists(whole.head(2)) == [[1], [2, 3]]
    ids, mask = whole["words"].padded(9, 2)
    assert ids.tolist() == [[1, 9], [2, 3], [9, 9], [4, 5]]
    assert mask.tolist() == [[True, False], [True, True], [False, False], [True, True]]
    back = Examples.made(whole.tensors())
    assert lists(back) == lists(whole)
    assert back.groupings["long"].tolist() == [0, 1, 0, 1]


def test_an_older_states_data_is_still_read() -> None:
    found = Examples.made(
        {"images": torch.ones(2, 1, 4, 4, dtype=torch.uint8), "labels": torch.tensor([1, -1])}
    )
    assert list(found.columns) == ["images"]
    assert not found.labelled
    assert set(found.tensors()) == {"images", "labels"}


def test_forgetting_by_an_attribute(read: Any) -> None:
    """By hand, from the answers of both."""
    from compressbench.probes.forgetting import Forgetting

    ready, _ = read
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    own, other = (View(executor.state(n), executor.bench(), n) for n in ("pruned", "dense"))
    rows = {(m.name, m.group): m for m in Forgetting("long").measure(own, other, executor.bench())}
    raw = sentences()
    long, labels = raw.attributes["test"]["long"], raw.test.labels
    at = executor.bench().dataset.split("test").rows
    before, after = (v.answers.numpy() == labels[at] for v in (other, own))
    for name in (False, True):
        mine = long[at] == name
        assert rows["recall", f"long={name}"].value == pytest.approx(100 * after[mine].mean())
        assert rows["forgotten", f"long={name}"].value == pytest.approx(100 * (before & ~after)[mine].mean())
    with pytest.raises(UserError, match="has no attribute 'short'"):
        list(Forgetting("short").measure(own, other, executor.bench()))


def test_a_task_that_is_none_is_one_line() -> None:
    data = {"name": "sentences", "read": {"_target_": "test_tasks.sentences"}}
    for task, words in (
        (3, "names no task"),
        ({"_target_": "os.system"}, "not allowed"),
        ({}, "names no task"),
    ):
        with pytest.raises(UserError, match=words):
            load({**data, "task": task}, ["test_tasks"])
    with pytest.raises(UserError, match="no images, not uint8"):
        load(data, ["test_tasks"])
    with pytest.raises(UserError, match=r"dataset\.augment is for pictures"):
        load({**data, "task": {"_target_": "test_tasks.tokens"}, "augment": {"pad": 1}}, ["test_tasks"])


def test_empty_rows_make_no_floats() -> None:
    assert Ragged.of([[], [1, 2]]).values.dtype == np.int64
    assert Ragged.of([[], []]).values.dtype == np.int64
    assert Ragged.of([[], [1, 2]]).starts.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": [1, 2, 3]}, "holds no labels"),
        ({"labels": [0, 1, 0], "x/values": [1, 2, 3]}, "without x/starts"),
        ({"labels": [0, 1, 0], "x/values": [1, 2, 3], "x/starts": [0, -1, 2, 3]}, "don't rise"),
        ({"labels": [0, 1, 0], "x/values": [1, 2, 3], "x/starts": [0, 1, 2, 300]}, "don't rise"),
        ({"labels": [0, 1, 0], "x/values": [1, 2, 3], "x/starts": [0.0, 1, 2, 3]}, "not int64"),
        ({"labels": [0, 1, 0], "x": [1, 2]}, "x: 2 rows for 3 examples"),
        ({"labels": [0, 1, 0], "x": [1, 2, 3], "group.": [1]}, "1 rows for 3 examples"),
        ({"labels": 3, "x": [1]}, "holds no labels"),
        ({"labels": [0, 3], "x": [1, 2]}, "labels 0 to 3, and there are 3 classes"),
        ({"labels": [0, -2], "x": [1, 2]}, "labels -2 to 0, and there are 3 classes"),
    ],
)
def test_a_states_data_that_are_no_examples_are_one_line(tensors: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Examples.made({name: torch.tensor(values) for name, values in tensors.items()}, classes=3)


def _six(labels: Any = (0, 1, 2, 0, 1, 2), **columns: Any) -> Examples:
    return Examples.of(labels, **(columns or {"words": Ragged.of([[1, 2]] * 6)}))


MADE: Any = None


def as_made() -> Any:
    return MADE


def fails(train: Examples, classes: tuple[str, ...], name: str) -> Any:
    raise KeyError("x")


def three(train: Examples, classes: tuple[str, ...], name: str) -> Any:
    return 3


@pytest.mark.parametrize(
    ("train", "of_train", "words"),
    [
        (_six(), np.array([1, 2]), "attribute 'g' is .2,., not an array of 6 values"),
        (_six(), np.arange(9), "attribute 'g' is .9,., not an array of 6 values"),
        (_six(), [1] * 6, "attribute 'g' is list"),
        (_six(), np.array(["a", 1, None, "b", 2, 3], object), "values of object that are no texts"),
        (_six(np.array(list("abcabc"))), None, "labels: of <U1"),
        (_six(words=list(range(6))), None, "words: a list"),
        (_six(words=np.array([[1], 2, 3, 4, 5, 6], object)), None, "words: of object"),
        (
            _six(words=Ragged(np.arange(6), np.array([0, 1, 2, 3, 4, 5, 99]))),
            None,
            "words: starts don't rise",
        ),
        (_six(**{"a/b": np.arange(6)}), None, "can't be called 'a/b'"),
        (_six(other=np.arange(6)), None, "train has other, test words"),
        (replace(_six(), labels=Ragged.of([[1]] * 6)), None, "labels are ragged"),
    ],
)
def test_a_reader_that_gives_no_examples_is_one_line(
    train: Examples, of_train: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {} if of_train is None else {"train": {"g": of_train}}
    monkeypatch.setattr("test_tasks.MADE", Raw(train, _six(), ("a", "b", "c"), "made here", given))
    with pytest.raises(UserError, match=words):
        load(
            {
                "name": "six",
                "read": {"_target_": "test_tasks.as_made"},
                "task": {"_target_": "test_tasks.tokens"},
            },
            ["test_tasks"],
        )


def test_attributes_of_objects_have_one_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's texts are objects, whose addresses would be the digest."""
    found = []
    for kind in (object, str):
        texts = np.array([f"{n % 2}" for n in range(6)], kind)
        monkeypatch.setattr(
            "test_tasks.MADE", Raw(_six(), _six(), ("a", "b", "c"), "", {"train": {"g": texts}})
        )
        read, task = {"_target_": "test_tasks.as_made"}, {"_target_": "test_tasks.tokens"}
        found.append(load({"name": "six", "read": read, "task": task}, ["test_tasks"]))
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].groups == {"g": ("0", "1")}


def test_a_function_that_makes_no_task_is_one_line() -> None:
    for target, words in (
        ("test_tasks.three", "a int is no task"),
        ("test_tasks.fails", "dataset.task: KeyError: 'x'"),
        ("test_tasks.Tokens", "no tuples of names"),
        ("compressbench.tasks.images.classification.classification", "KeyError: 'images'"),
    ):
        read = {"_target_": "test_tasks.sentences"}
        with pytest.raises(UserError, match=words):
            load({"name": "s", "read": read, "task": {"_target_": target}}, ["test_tasks"])


def test_one_tag_is_one_answer_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece an example, but labels (n, 1): the answers are the task's, not the likeliest class as (n,)."""
    from types import SimpleNamespace

    labels = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    logits = torch.tensor([[-1.0], [2.0], [-3.0], [4.0]])
    task = Tags(Classification(("above",), (0.5,), (0.5,)))
    examples = Examples({"images": torch.zeros(4, 1, 1, 1, dtype=torch.uint8)}, labels, torch.arange(4))
    bench: Any = SimpleNamespace(task=task, feed=lambda split: examples)
    view = View(None, bench)  # type: ignore[arg-type]
    view.__dict__["fast"] = lambda x: logits
    assert view.answers.shape == (4, 1)
    assert view.right.tolist() == [True, True, False, True]


def test_what_is_of_one_class_an_example_says_so() -> None:
    from compressbench.data.examples import known, one_class

    assert known(torch.tensor([[1.0, -1.0], [0.0, 1.0]])).tolist() == [False, True]
    assert known(torch.tensor([[1, -1], [-1, -1]])).tolist() == [True, False]  # of sequences
    one_class(torch.tensor([1, -1]), "this")
    for labels in (torch.zeros(3, 2), torch.zeros(3), np.zeros((3, 2), np.int64)):
        with pytest.raises(UserError, match="this is of one class an example"):
            one_class(labels, "this")


def test_sharpness_of_several_tags_is_measured_and_few_refused() -> None:
    from types import SimpleNamespace

    from compressbench.data.transfer import few
    from compressbench.training.objectives import labelled_loss

    split = tagged().train.to("cpu")
    partly = replace(split, labels=torch.cat((split.labels[:2], -torch.ones(2, 2))), rows=torch.arange(4))
    task = Tags(Classification(("above", "left"), (0.5,), (0.5,)))
    bench: Any = SimpleNamespace(
        task=task, feed=lambda _: partly, dataset=SimpleNamespace(split=lambda _: split)
    )
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    batch: Any = SimpleNamespace(labels=partly.labels, outputs=Outputs(logits))
    wanted = F.binary_cross_entropy_with_logits(logits[:2], split.labels[:2])
    assert float(labelled_loss(bench, batch)) == pytest.approx(float(wanted))
    settings: Any = SimpleNamespace(labels=3, data=None, draw="few", unlabelled=False)
    with pytest.raises(UserError, match="data/few is of one class an example"):
        few(None, bench, settings)  # type: ignore[arg-type]


def test_an_answer_that_is_no_number_is_seen_at_any_place() -> None:
    """Of several tensors the largest distance was taken, and no number is larger than NaN is no number."""
    from compressbench.hardware import agreement

    good, bad = torch.randn(8, 3), torch.full((8, 3), torch.nan)

    def gives(*found: torch.Tensor) -> Any:
        return lambda x: [t[: len(x)] for t in found]

    agreement.check(gives(good, good), gives(good, good), (torch.zeros(8, 1),), (3, 8), "it")
    for other in ((good, bad), (bad, good)):
        with pytest.raises(agreement.Otherwise, match="answers otherwise"):
            agreement.check(gives(good, good), gives(*other), (torch.zeros(8, 1),), (3, 8), "it")
    with pytest.raises(agreement.Otherwise, match="gives 1 tensors"):
        agreement.check(gives(good, good), gives(good), (torch.zeros(8, 1),), (3, 8), "it")


class Ignores(Reads):
    """Reads no mask."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.embedding(ids))).mean(1))


def test_an_input_that_is_not_read_is_still_one_of_the_file() -> None:
    runtime = pytest.importorskip("onnxruntime")
    from compressbench.hardware.onnx_graph import graph_of

    net, (ids, mask) = Ignores(WORDS, 3).eval(), Tokens(("a", "b", "c")).blank(4)
    graph = graph_of(net, (ids, mask), names=("ids", "mask"))
    session = runtime.InferenceSession(graph.bytes())
    assert [i.name for i in session.get_inputs()] == ["ids", "mask"]
    found = session.run(None, {"ids": ids[:3].numpy(), "mask": mask[:3].numpy()})[0]
    assert np.allclose(found, net(ids[:3], mask[:3]).detach().numpy(), atol=1e-5)


def pairs_of_arrays() -> Raw:
    both = (np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64))
    return Raw(both, both, ("a",))  # type: ignore[arg-type]


def test_splits_that_are_no_examples_are_one_line() -> None:
    with pytest.raises(UserError, match=r"train: tuple is no examples; Split\.of\(images, labels\)"):
        load({"name": "pairs", "read": {"_target_": "test_tasks.pairs_of_arrays"}}, ["test_tasks"])
