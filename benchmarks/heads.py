"""Heads removed and 8 bits together, on each runtime, one thread: does what each gains multiply?

    python benchmarks/heads.py [--model minilm] [--fraction 0.5] [--units 0] [--tokens 32] [--batches 1 16] [--seconds 5]

Four nets (whole, without a share of the heads and perhaps of the feed-forward units, 8 bits, both) are timed in turns
on the same texts by ``text_deployed.measure``. Which heads go is drawn: for time only how many of each layer go counts.
"""

from __future__ import annotations

import argparse

import torch

from compressbench.runs.provenance import processor, versions
from compressbench.stages.quantize import Quantize
from compressbench.stages.shrink import FeedForward, Heads
from text_deployed import measure, states_of

RANDOM = {"_target_": "compressbench.criteria.random.random", "_partial_": True}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dataset", default="glosses")
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--units", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; {versions()}; 1 thread")
    bench, states = states_of([f"model={args.model}", f"dataset={args.dataset}"], args.tokens, args.texts)
    fewer = Heads(RANDOM, args.fraction, how="uniform").apply(states["fp32"], bench)
    fewer = FeedForward(RANDOM, args.units).apply(fewer, bench) if args.units else fewer
    arms = {
        "fp32": states["fp32"],
        "heads": fewer,
        "int8": states["int8"],
        "heads, int8": Quantize(examples=128).apply(fewer, bench),
    }
    measure(bench, arms, args.batches, args.seconds)


if __name__ == "__main__":
    main()
