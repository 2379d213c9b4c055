"""Evaluation speed: our forward, PGD and probes against bare ones, as ratios of CPU time at one thread, side by side.

    python benchmarks/evaluation.py [--seconds 30] [--section forward|pgd|standard] [--images 10000]

Each arm is a process of its own, taking turns, because ours changes the allocator for its process. A ratio is
that of two neighbouring turns; its median, its range and its number are printed.

forward  The bare arms run float NCHW tensors through the module in evaluation mode under ``no_grad``. Ours is
         what probes do: uint8 images, encoded per batch, prepared module, log-probabilities. ResNet-20.
pgd      The naive arm is what a tutorial does: evaluation mode, NCHW, parameters that require gradients,
         ``loss.backward()``, all steps for all images. Ours with all steps does the same work; ours as
         shipped leaves an image alone once it has fallen, so how much that saves depends on the model: here a
         ResNet-20 trained for two epochs on 4,000 Fashion-MNIST images, eps 8/255, ten steps.
standard Every probe of ``evaluation=standard`` on one ResNet-20 beside its reference, whose own answers and bad
         examples are there already, as in a run. Examples forwarded, and those whose gradient was asked for, are
         counted on the nets, probe by probe, against what the probe's settings need (``needs``). So that this is
         known exactly nothing may fall: labels are the net's own answers and eps is a millionth, the costliest
         case there is. Then CPU time against bare forwards and backwards of just the number that is needed, with the
         module as it was trained, and with the prepared one that probes use. Timings of ``cost`` are left out: they
         take the time that they are given.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.dataset import Dataset, Split
from compressbench.data.load import load
from compressbench.models.build import fill
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.runs.allocator import keep_freed_memory
from compressbench.runs.provenance import processor, versions
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.tasks.images import attacks
from compressbench.tasks.images.classification import Classification
from compressbench.views import BATCH, View

RESNET = {
    "_target_": "compressbench.models.resnet.CifarResNet",
    "depth": 20,
    "shape": "@shape",
    "classes": "@classes",
}
FASHION = {
    "name": "fashion_mnist",
    "read": {"_target_": "compressbench.data.idx.fashion_mnist"},
    "train_size": 4000,
}
EPS, STEPS, ATTACKED, SEEN = 8 / 255, 10, 256, 512
FORWARD = ("bare, batch 64", "bare, batch 128", "bare, batch 512", "ours")
PGD = ("naive", "ours, all steps", "ours, until it falls")
STANDARD = ("bare, prepared", "bare, as trained", "ours")
ARMS = {"forward": FORWARD, "pgd": PGD, "standard": STANDARD}
HELD, TINY_EPS = 500, 1e-6
LEAST = 5


def noise_bench() -> Bench:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SEEN, 3, 32, 32), dtype=np.uint8)
    split = Split.of(images, rng.integers(0, 10, SEEN))
    dataset = Dataset(
        "noise",
        {"train": split, "test": split},
        Classification(tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, images.shape[1:]),
    )
    return bench_of(dataset)


def bench_of(dataset: Dataset) -> Bench:
    return Bench(dataset, seed=0, name="init")


def trained() -> State:
    """A net worth attacking; seconds on one core."""
    bench = bench_of(load(FASHION))
    optimizer = {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9}
    stage = Train(length="2ep", batch_size=64, lr=0.05, optimizer=optimizer, validate=None)
    return stage.apply(drawn({"name": "resnet20", "build": RESNET}, bench), replace(bench, name="dense"))


def forward_of(arm: str) -> Callable[[], None]:
    bench = noise_bench()
    view = View(drawn({"name": "resnet20", "build": RESNET}, bench), bench)
    if arm == "ours":

        def ours() -> None:
            view.log_probs_of("test", SEEN)

        return ours
    module, images = view.module, bench.task.normalised(bench.feed("test")["images"])
    size = int(arm.rpartition(" ")[2])

    def run() -> None:
        with torch.no_grad():
            for part in images.split(size):
                F.log_softmax(module(part), dim=-1)

    return run


def pgd_of(arm: str, weights: Path) -> Callable[[], None]:
    bench = bench_of(load(FASHION))
    view = View(State(fill(RESNET, bench.dataset), {"weights": load_file(weights)}), bench)
    feed, task = bench.feed("test"), bench.task
    rows = torch.randperm(len(feed), generator=torch.Generator().manual_seed(0))[:ATTACKED]
    images, labels = task.normalised(feed["images"][rows]), feed.labels[rows]
    ball = attacks.Ball(task.surface(), EPS)
    start = attacks.random_start(images, ball, torch.Generator().manual_seed(0))
    if arm != "naive":
        drop = arm.endswith("falls")

        def ours() -> None:
            attacks.pgd(
                view.fast,
                images,
                labels,
                task.loss,
                ball,
                steps=STEPS,
                step=EPS / 4,
                start=start,
                drop_fallen=drop,
            )

        return ours
    module, (low, high, scale) = view.module, (ball.surface.low, ball.surface.high, ball.surface.scale)

    def naive() -> None:
        for clean, begin, at in zip(*(x.split(BATCH) for x in (images, start, labels)), strict=True):
            x = begin
            for _ in range(STEPS):
                x = x.detach().requires_grad_()
                F.cross_entropy(module(x), at).backward()
                x = x.detach() + EPS / 4 * scale * x.grad.sign()
                x = torch.minimum(torch.maximum(x, clean - EPS * scale), clean + EPS * scale)
                x = torch.minimum(torch.maximum(x, low), high)

    return naive


@dataclass(frozen=True)
class Work:
    """Examples forwarded, and of how many of these a gradient was asked for."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)


def needs(name: str, probe: object, images: int, held: int) -> Work:
    """What a probe of ``standard`` can't do without, of a state none of whose images fall, beside a ready reference.

    Answers on the test split are made by the first probe that asks, ``accuracy``.
    """
    if name == "accuracy":
        return Work(images)  # each test image once
    if name == "confidence":
        return Work(held)  # a temperature is fitted on each validation image
    if name == "cost":
        return Work(1)  # MACs are counted on one blank image
    if name == "corruptions":  # each corrupted image once
        return Work(min(probe.examples or images, images) * len(probe.kinds) * len(probe.severities))
    if name != "robustness":
        return Work()  # from answers, weights and facts
    n = min(probe.examples or images, images)
    gradients = 1 + probe.steps * probe.restarts * (2 if probe.margin else 1)  # FGSM; PGD on one loss or two
    gradients += probe.steps if probe.doubled else 0
    ends = 1 + probe.restarts * (2 if probe.margin else 1) + bool(probe.doubled)  # what it says in the end
    ends += 2 if probe.noise else 0
    ends += probe.queries  # of Square, which has no gradient
    ends += 1  # what fools the reference
    ends += 2  # the reference's answers to FGSM's and PGD's images, for loyalty
    return Work(n * (gradients + ends), n * gradients)


@contextmanager
def counted(views: tuple[View, ...], into: Counter[str]) -> Iterator[None]:
    """Counts examples that pass the views' nets, prepared or not."""

    def hook(module: torch.nn.Module, given: tuple[torch.Tensor, ...], said: object) -> None:
        into["forward"] += len(given[0])
        into["backward"] += len(given[0]) * bool(torch.is_grad_enabled() and given[0].requires_grad)

    modules = {id(m): m for v in views for m in (v.fast, v.module)}
    hooks = [m.register_forward_hook(hook) for m in modules.values()]
    yield
    for one in hooks:
        one.remove()


def standard_probes() -> Mapping[str, object]:
    found = composed(["evaluation=standard", "scale=laptop"])["evaluation"]["probes"]
    built = {name: specs.build(spec) for name, spec in found.items()}
    of_pictures = {name: p for name, p in built.items() if not getattr(p, "only_texts", False)}
    single = {name: p for name, p in of_pictures.items() if hasattr(p, "measure")}
    return {**single, "robustness": replace(single["robustness"], eps=TINY_EPS)}


def standing_bench(images: int) -> tuple[Bench, State, State]:
    """Noise that a net is always right about, the net, and a reference that differs from it by next to nothing."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images + HELD, 3, 32, 32), dtype=np.uint8)
    task = Classification(tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, pixels.shape[1:])

    def bench_with(labels: np.ndarray) -> Bench:
        splits = {"test": Split.of(pixels[:images], labels[:images])}
        splits["validation"] = Split.of(pixels[images:], labels[images:])
        return bench_of(Dataset("noise", {**splits, "train": splits["validation"]}, task))

    blind = bench_with(np.zeros(len(pixels), np.int64))
    state = drawn({"name": "resnet20", "build": RESNET}, blind)
    view = View(state, blind)
    labels = torch.cat([view.log_probs_of(split) for split in ("test", "validation")]).argmax(1)
    near = {n: w * (1 + 1e-6) if w.is_floating_point() else w for n, w in state.weights.items()}
    return bench_with(labels.numpy()), state, replace(state, tensors={**state.tensors, "weights": near})


def ready_reference(bench: Bench, state: State, probes: Mapping[str, object]) -> View:
    reference = View(state, bench, "dense")
    for name, probe in probes.items():
        list(probe.measure(reference, reference, replace(bench, name=f"probe {name}")))
    return reference


def standard_of(arm: str, images: int) -> Callable[[], None]:
    bench, state, near = standing_bench(images)
    probes = standard_probes()
    if arm == "ours":
        reference = ready_reference(bench, near, probes)

        def ours() -> None:
            view = View(state, bench, "subject")
            for name, probe in probes.items():
                list(probe.measure(view, reference, replace(bench, name=f"probe {name}")))

        return ours
    work = sum((needs(n, p, images, HELD) for n, p in probes.items()), Work())
    view = View(state, bench)
    module = view.fast if arm.endswith("prepared") else view.module.requires_grad_(False)
    encoded = bench.task.normalised(bench.feed("test").head(BATCH)["images"])
    labels = bench.feed("test").labels[:BATCH]

    def bare() -> None:
        with torch.no_grad():
            for start in range(0, work.forward - work.backward, BATCH):
                size = min(BATCH, work.forward - work.backward - start)
                F.log_softmax(forward(module, encoded[:size]).logits, dim=-1)
        for start in range(0, work.backward, BATCH):
            size = min(BATCH, work.backward - start)
            x = encoded[:size].clone().requires_grad_()
            F.cross_entropy(forward(module, x).logits, labels[:size]).backward()

    return bare


def count_standard(images: int) -> None:
    """Prints what each probe forwarded and what it needed."""
    bench, state, near = standing_bench(images)
    probes = standard_probes()
    reference, view = ready_reference(bench, near, probes), View(state, bench, "subject")
    total, wanted = Work(), Work()
    print(f"  {'probe':<12}{'forwarded':>10}{'needed':>10}{'backward':>10}{'needed':>10}")
    for name, probe in probes.items():
        seen: Counter[str] = Counter()
        with counted((view, reference), seen):
            list(probe.measure(view, reference, replace(bench, name=f"probe {name}")))
        own, least = Work(seen["forward"], seen["backward"]), needs(name, probe, images, HELD)
        total, wanted = total + own, wanted + least
        print(f"  {name:<12}{own.forward:>10}{least.forward:>10}{own.backward:>10}{least.backward:>10}")
    print(
        f"  {'all':<12}{total.forward:>10}{wanted.forward:>10}{total.backward:>10}{wanted.backward:>10}"
        f"  ratio {total.forward / wanted.forward:.3f} and {total.backward / wanted.backward:.3f}"
    )


def serve(pipe: Connection, section: str, arm: str, weights: Path, images: int) -> None:
    """A worker: does its piece of work whenever asked, answers with its CPU seconds."""
    torch.set_num_threads(1)
    if arm.startswith("ours"):
        keep_freed_memory()
    run = (
        forward_of(arm)
        if section == "forward"
        else standard_of(arm, images)
        if section == "standard"
        else pgd_of(arm, weights)
    )
    run()
    while pipe.recv():
        began = time.process_time()
        run()
        pipe.send(time.process_time() - began)


def ratios(section: str, images: int, seconds: float, weights: Path) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, workers, times = {}, [], {arm: [] for arm in ARMS[section]}
    for arm in ARMS[section]:
        pipes[arm], there = context.Pipe()
        workers.append(
            context.Process(target=serve, args=(there, section, arm, weights, images), daemon=True)
        )
        workers[-1].start()
        there.close()  # or a worker that dies would leave us waiting
    end = time.monotonic() + seconds
    while time.monotonic() < end or any(len(t) < LEAST for t in times.values()):
        for arm, pipe in pipes.items():
            pipe.send(True)
            times[arm].append(pipe.recv())
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(False)
        worker.join()
    base = ARMS[section][0]
    for arm, found in times.items():
        pairs = [b / t for b, t in zip(times[base], found, strict=True)]
        middle, spread = statistics.median(pairs), f"{min(pairs):.2f}-{max(pairs):.2f}, n={len(pairs)}"
        print(f"  {arm:<22}{images / statistics.median(found):8.0f} images/s {middle:6.2f} x ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--section", choices=ARMS)
    parser.add_argument("--images", type=int, default=10_000, help="test images of section standard")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; CPU time, 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        if args.section in (None, "forward"):
            print("forward: ResNet-20, 3x32x32")
            ratios("forward", SEEN, args.seconds, weights)
        if args.section in (None, "pgd"):
            save_file(dict(trained().weights), weights)
            print(f"pgd: ResNet-20, 1x28x28, eps 8/255, {STEPS} steps, {ATTACKED} images")
            ratios("pgd", ATTACKED, args.seconds, weights)

    if args.section in (None, "standard"):
        print(f"standard: ResNet-20, {args.images} images 3x32x32, {HELD} validation images")
        count_standard(args.images)
        ratios("standard", args.images, args.seconds, Path())


if __name__ == "__main__":
    main()
