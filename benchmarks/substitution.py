"""Words exchanged for synonyms: many texts side by side against one query at a time, in CPU time at one thread.

    python benchmarks/substitution.py [--texts 40] [--dim 256] [--depth 4] [--pad 128]

A Transformer encoder with drawn weights, on definitions of WordNet's; the label of each text is what the model says, so
that all are attacked. Both ways pass the same tokenizer, task and prepared module, and what they find is compared.
``--pad`` fills single queries up to so many tokens, as TextFooler's published code does (128); else they are as short as
they are, and what is gained is what a matrix product gains by more rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compressbench.bench import Bench
from compressbench.data.examples import Examples
from compressbench.data.load import load
from compressbench.data.synonyms import wordnet
from compressbench.models.draw import drawn
from compressbench.outputs import forward
from compressbench.probes.substitution import asker
from compressbench.runs.provenance import processor, versions
from compressbench.tasks.text.packing import TEXT, packed, unpacked
from compressbench.tasks.text.substitution import Bounds, search, side_by_side
from compressbench.tasks.text.words import candidates
from compressbench.views import View


def prepared(dim: int, depth: int) -> View:
    """A drawn encoder on the definitions, whose answers differ."""
    config = {
        "name": "glosses",
        "read": {"_target_": "compressbench.data.texts.glosses"},
        "task": {"_target_": "compressbench.tasks.text.classification.text_classification", "length": 128},
    }
    sizes = {"dim": dim, "depth": depth, "heads": 4, "mlp": 4 * dim}
    facts = {name: f"@{name}" for name in ("vocabulary", "classes", "length", "segments")}
    build = {"_target_": "compressbench.models.encoder.TextEncoder", **sizes, **facts}
    bench = Bench(load(config), seed=0, name="dense")
    return View(drawn({"name": "encoder", "build": build}, bench), bench)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--pad", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    view = prepared(given.dim, given.depth)
    task, examples = view.bench.task, view.bench.dataset.split("test").head(given.texts)
    texts, ask = unpacked(examples[TEXT]), asker(view, examples)
    labels = ask(range(len(texts)), texts).argmax(axis=1)
    known = {word: candidates(word, wordnet()) for text in texts for word in text.split()}
    bounds = Bounds(0.4, 50, 500)

    def begun() -> list[Any]:
        def of(word: str) -> Sequence[str]:
            return known[word] if word in known else candidates(word, wordnet())

        return [search(t, int(label), of, bounds) for t, label in zip(texts, labels, strict=True)]

    def singly(owners: Sequence[int], wanted: Sequence[str]) -> Any:
        said = []
        for text in wanted:
            made = task.prepared(Examples.of(np.zeros(1, np.int64), **{TEXT: packed([text])})).to("cpu")
            inputs = task.encode(made)
            short = max(0, given.pad - inputs[0].shape[1])
            inputs = tuple(torch.nn.functional.pad(x, (0, short)) for x in inputs)
            with torch.inference_mode():
                said.append(task.log_probs(forward(view.fast, *inputs), made.labels).log_probs)
        return torch.cat(said).numpy()

    print(f"{processor()}, 1 thread; {versions()}")
    side_by_side(begun()[:2], ask), side_by_side(begun()[:2], singly)
    start = time.process_time()
    together = side_by_side(begun(), ask)
    batched = time.process_time() - start
    start = time.process_time()
    alone = [side_by_side([one], singly)[0] for one in begun()]
    single = time.process_time() - start
    queries = sum(found.queries for found in together)
    differ = sum(a != b for a, b in zip(together, alone, strict=True))
    fell = sum(found.fallen for found in together)
    print(
        f"encoder {given.depth} x {given.dim}; {len(texts)} texts, {queries} queries, {fell} fell, {differ} differ"
    )
    print(f"one by one {single:8.2f} s   {queries / single:8,.0f} queries/s")
    print(f"batched    {batched:8.2f} s   {queries / batched:8,.0f} queries/s   {single / batched:.2f} x")


if __name__ == "__main__":
    main()
