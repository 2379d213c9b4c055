"""Two models' made-up outputs, and everything beside them, for tests of how a comparison is shown."""

from __future__ import annotations

import numpy as np

from compressbench.comparing.comparison import Asked, Comparison, Floor, Said, compared, floor
from compressbench.comparing.gate import conditions, verdicts
from compressbench.comparing.groups import coded
from compressbench.comparing.intervals import Estimate, share
from compressbench.showing.account import (
    Account,
    Attack,
    Cost,
    Expense,
    Fragility,
    Layer,
    Layers,
    Provenance,
    Restored,
    Timing,
)

NASTY = '<script>alert(1)</script>&"\x1b[31m'
"""A name that would run, steer and break."""
CLASSES = ("plane", "car", "bird", "cat", "deer", NASTY)
LIMITS = "loyalty>=50,accuracy_drop<=1,worse_group<=90"


def logits(n: int, classes: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, classes) float32 logits of a model that is mostly right, and the (n,) labels; noise is another model's."""
    drawn = np.random.default_rng(0)
    labels = drawn.integers(0, classes, n)
    scores = drawn.normal(0, 1.2, (n, classes))
    scores[np.arange(n), labels] += 3
    scores += np.random.default_rng(seed).normal(0, 1, (n, classes)) * noise
    return scores.astype(np.float32), labels


def asked(n: int = 400, labelled: bool = True, classes: tuple[str, ...] = CLASSES) -> Asked:
    """What both were asked, with a sub-group and ids that are file names."""
    _, labels = logits(n, len(classes), 0)
    light = coded(np.array(["bright", "dark"])[np.arange(n) % 5 % 2])
    ids = [f"photos/{i:05d}.jpg" for i in range(n)]
    ids[3] = f"=cmd|{NASTY}"
    return Asked("made-up photos", ids, labels if labelled else None, classes, {"light": light})


def said(name: str, noise: float, seed: int, n: int = 400, classes: int = len(CLASSES)) -> Said:
    """A model as far from the reference as the noise says."""
    return Said(name, f"{name.rpartition('.')[2]}, onnxruntime", logits(n, classes, seed, noise)[0])


def broken(name: str = "broken.onnx", n: int = 400) -> Said:
    """One that never answers the fourth class, and whose outputs are no numbers for three examples."""
    scores = logits(n, len(CLASSES), 5, 0.3)[0]
    scores[:, 3] = -20.0
    scores[[3, 7, 11], 0] = np.nan
    return Said(name, "ONNX, int8", scores)


def compare(other: Said, labelled: bool = True, with_floor: bool = True, n: int = 400) -> Comparison:
    """The comparison of one with the reference."""
    reference = said("models/resnet.onnx", 0.0, 1, n)
    floors: tuple[Floor, ...] = ()
    if with_floor:
        floors = (floor("another training of the reference", reference, said("x", 0.5, 9, n)),)
    return compared(asked(n, labelled), reference, other, floors=floors)


def timing(batch: int, ms: float, speedup: float | None = None) -> Timing:
    """A timing with an interval a tenth wide."""
    fast = 1000 * batch / ms
    return Timing(
        batch,
        Estimate(ms, 0.95 * ms, 1.05 * ms, 31),
        Estimate(fast, 0.95 * fast, 1.05 * fast, 31),
        None if speedup is None else Estimate(speedup, speedup - 0.1, speedup + 0.1, 31),
    )


def account(labelled: bool = True, full: bool = True, others: tuple[Said, ...] = ()) -> Account:
    """One with two others, one of them broken, and whatever may be beside them; or with nothing beside it."""
    given = others or (said("models/small_int8.onnx", 0.6, 2), broken())
    found = tuple(compare(each, labelled) for each in given)
    if not full:
        return Account(found, asked(labelled=labelled))
    many = len(found)
    cost = Cost(
        (
            Expense("onnxruntime", 1_100_000, 52_000_000, (timing(1, 2.0), timing(32, 40.0))),
            *(
                Expense(
                    "onnxruntime",
                    300_000 + k,
                    None,
                    (timing(1, 1.0, 2.0), timing(32, 16.0, 2.5)),
                    "20 of 21 layers in int8",
                )
                for k in range(many)
            ),
        ),
        "a processor, 2 threads",
        (f"small is {NASTY} 2.0 times as fast.",),
    )
    clean = tuple(share(380 - 10 * k, 400) for k in range(many + 1))
    fragility = Fragility(
        (
            Attack("clean", clean),
            Attack(
                "gaussian noise, severity 3",
                tuple(share(300 - 40 * k, 400) for k in range(many + 1)),
                (None, *(share(350, 400) for _ in range(many))),
                ("", *("more fragile" for _ in range(many))),
                "on 400 examples",
            ),
        ),
        ("More fragile under noise.", "Not tested here: Square attack."),
    )
    layers = Layers(
        tuple(
            Layer(
                f"layer{k}.{NASTY}" if k == 2 else f"layer{k}.conv",
                40.0 - k,
                38.0 - 2 * k,
                "int8 convolution",
            )
            for k in range(12)
        ),
        (Restored(("layer11.conv",), share(379, 400), share(390, 400)),),
        64,
        ("Most of the loss is made in layer11.conv.",),
    )
    limits = conditions(LIMITS)
    return Account(
        found,
        asked(labelled=labelled),
        Provenance(
            "compressbench 0, numpy 2",
            "a processor, 2 threads",
            "/data/photos",
            tuple(f"resized to 32 x 32, scaled to 0-1 ({k})" for k in range(many + 1)),
            "compressbench compare a b",
            0,
            12.5,
            tuple(f"{k}" * 64 for k in range(many + 1)),
        ),
        cost,
        fragility,
        (layers, *[None] * (many - 1)),
        tuple(verdicts(limits, c.figures) for c in found),
        (f"the second file {NASTY} is prepared in another way",),
    )


def thumbnail(row: int) -> np.ndarray | None:
    """A made-up picture; every ninth has none."""
    if row % 9 == 0:
        return None
    made = np.random.default_rng(row)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:] = made.integers(0, 255, 3)
    picture[8:24, 8:24] = made.integers(0, 255, 3)
    return picture
