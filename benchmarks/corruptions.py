"""Corruptions: images a second by kind, in CPU time at one thread, at 32 x 32 RGB.

    python benchmarks/corruptions.py [--images 1000] [--size 32]

Each kind corrupts the same images at all five severities. Pictures are drawn here: what they show changes no time but
that of JPEG, by a little. The last line is the number a second over the mean time of all kinds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from compressbench.runs.provenance import processor, versions
from compressbench.tasks.images.corruptions import KINDS, SEVERITIES, corrupted


def smooth(count: int, size: int) -> torch.Tensor:
    """uint8 (count, 3, size, size), random colours that change slowly."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((count, 3, 5, 5), np.float32))
    found = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic") * 255
    return found.clamp(0, 255).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = smooth(given.images, given.size)
    print(f"{processor()}, 1 thread; {versions()}")
    print(f"{given.images} images of {given.size} x {given.size} x 3, severities 1 to 5, CPU time")
    times = []
    for kind in KINDS:
        corrupted(images[:64], kind, 1)
        start = time.process_time()
        for severity in SEVERITIES:
            corrupted(images, kind, severity)
        times.append((time.process_time() - start) / (given.images * len(SEVERITIES)))
        print(f"{kind:18}{1 / times[-1]:10,.0f} images/s", flush=True)
    print(f"{'mean time of all':18}{len(times) / sum(times):10,.0f} images/s")


if __name__ == "__main__":
    main()
