"""Greedy decoding and beam search with keys and values remembered, against asking again of all tokens so far.

    python benchmarks/decoding.py [--sentences 64] [--tokens 30] [--rounds 5] [--dim 256] [--vocabulary 8000]

A translator of 3 + 3 layers with random weights writes the given number of tokens for each of as many sources. Three ways
give the same tokens, which is asserted: memory; the source kept and the decoder run on the whole sentence so far; source
and sentence run anew. A language model of 4 layers goes on after 4 tokens in two ways: with memory, and with all tokens
so far at every step. So do transformers' own nets, as `model=hf` runs them, a T5 of 3 + 3 layers and a GPT-2 of 4, where
transformers is installed. CPU time at one thread, the ways in turns; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressbench.models.encoder_decoder import EncoderDecoder
from compressbench.models.language_model import LanguageModel
from compressbench.tasks.text.decoding import Again, beam_search, greedy


class SourceKept:
    """The encoder once, the decoder on all tokens so far at every step."""

    def __init__(self, net: EncoderDecoder) -> None:
        self.net = net

    def begin(self, *inputs: Tensor) -> Any:
        """The source as the decoder sees it, and no token."""
        return (*self.net.encoded(*inputs), inputs[0][:, :0])

    def step(self, tokens: Tensor, remembered: Any) -> tuple[Tensor, Any]:
        """See ``decoding.Steps``."""
        source, absent, before = remembered
        so_far = torch.cat((before, tokens[:, None]), dim=1)
        return self.net.decoded(source, absent, so_far)[:, -1], (source, absent, so_far)


def main() -> None:
    """Prints a row a way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("sentences", 64),
        ("tokens", 30),
        ("rounds", 5),
        ("dim", 256),
        ("vocabulary", 8000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = EncoderDecoder(given.vocabulary, 64, dim=given.dim, mlp=4 * given.dim).eval()
    net.fc.bias.data[2] = -1e3  # the end, which would stop some of them
    ids = torch.randint(3, given.vocabulary, (given.sentences, given.tokens))
    inputs = ids, torch.ones_like(ids)
    limits = torch.full((given.sentences,), given.tokens)
    ways = {"memory": net, "source kept": SourceKept(net), "all anew": Again(net)}

    def asked(way: Any, beam: int) -> Tensor:
        if beam == 1:
            return greedy(way, inputs, 1, 2, limits)
        return beam_search(way, inputs, 1, 2, limits, beam)

    print(
        f"{given.sentences} sentences, {given.tokens} tokens, width {given.dim}, vocabulary {given.vocabulary:,}"
    )
    with torch.inference_mode():
        for beam in (1, 4):
            calls = {name: functools.partial(asked, way, beam) for name, way in ways.items()}
            _row(f"beam {beam}", calls, given.rounds)
        net = LanguageModel(given.vocabulary, 64, dim=given.dim, mlp=4 * given.dim).eval()
        _row("going on", _of_language(net, given), given.rounds)
        if importlib.util.find_spec("transformers") is None:
            return
        t5, gpt2 = _of_transformers(given)
        calls = {
            name: functools.partial(asked, way, 1)
            for name, way in {"memory": t5, "all anew": Again(t5)}.items()
        }
        _row("T5", calls, given.rounds)
        _row("GPT-2", _of_language(gpt2, given), given.rounds)


def _of_transformers(given: argparse.Namespace) -> tuple[Any, Any]:
    """The library's own nets with random weights, of the same width as ours."""
    from compressbench.models.hf import HuggingFace

    inputs = ["input_ids", "attention_mask"]
    wide = {
        "d_model": given.dim,
        "d_kv": given.dim // 4,
        "d_ff": 4 * given.dim,
        "num_heads": 4,
        "num_layers": 3,
    }
    t5 = {"model_type": "t5", "vocab_size": given.vocabulary, "decoder_start_token_id": 1, **wide}
    gpt2 = {
        "model_type": "gpt2",
        "vocab_size": given.vocabulary,
        "n_embd": given.dim,
        "n_layer": 4,
        "n_head": 4,
    }
    net = HuggingFace(t5, "seq2seq", [*inputs, "decoder_input_ids"]).eval()
    net.net.lm_head.weight.data[2] = 0.0  # the end is never the likeliest
    return net, HuggingFace({**gpt2, "n_positions": 64}, "causal", inputs).eval()


def _of_language(net: Any, given: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """A language model that writes on, with memory and without."""
    start = torch.randint(3, given.vocabulary, (given.sentences, 4))

    def memory() -> Tensor:
        logits, known = net.begun(start)
        ids = torch.cat((start, logits.argmax(dim=1, keepdim=True)), dim=1)
        for _ in range(given.tokens - 1):
            logits, known = net.step(ids[:, -1], known)
            ids = torch.cat((ids, logits.argmax(dim=1, keepdim=True)), dim=1)
        return ids

    def anew() -> Tensor:
        ids = start
        for _ in range(given.tokens):
            logits = net(ids, torch.ones_like(ids))[:, -1]
            ids = torch.cat((ids, logits.argmax(dim=1, keepdim=True)), dim=1)
        return ids

    return {"memory": memory, "all anew": anew}


def _row(what: str, calls: dict[str, Callable[[], Tensor]], rounds: int) -> None:
    """Prints how long each way takes and which tokens are those of the memory's."""
    found = {name: call() for name, call in calls.items()}
    same = [float((tokens == found["memory"]).float().mean()) for tokens in found.values()]
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            spent[name].append(_seconds(call))
    for (name, times), share in zip(spent.items(), same, strict=True):
        ratio = statistics.median(t / m for t, m in zip(times, spent["memory"], strict=True))
        told = (
            f"{statistics.median(times):7.3f} s   {ratio:5.2f} x memory   {100 * share:.2f} % the same tokens"
        )
        print(f"{what:<10} {name:<12} {told}", flush=True)


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
