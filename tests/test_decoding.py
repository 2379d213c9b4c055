"""Decoding: neither memory nor company changes a token, beam 1 is greedy, and a wide beam finds the best there is."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressbench.models.encoder_decoder import EncoderDecoder
from compressbench.models.language_model import LanguageModel
from compressbench.models.quantized import quantize
from compressbench.tasks.text.decoding import Again, beam_search, greedy, of_rows, penalty, steps_of

BEGIN, END, WORDS, LONGEST = 1, 2, 11, 16


@pytest.fixture(scope="module")
def net() -> EncoderDecoder:
    """In float64, so that a sum in another order is still the same token; not trained, with an end that comes."""
    torch.manual_seed(4)
    made = EncoderDecoder(WORDS, LONGEST, dim=16, depth=2, decoder_depth=3, heads=2, mlp=24).double().eval()
    for part in made.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.data *= 12
    return made


@pytest.fixture(scope="module")
def sources() -> tuple[Tensor, Tensor]:
    """24 sentences of 1 to 8 tokens, padded with what is a token elsewhere."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, WORDS, (24, 8), generator=draw)
    there = torch.arange(8) < 1 + torch.arange(24)[:, None] % 8
    return ids.masked_fill(~there, 0), there.long()


LIMITS = torch.arange(24) % 13 + 2


def lists(said: Tensor) -> list[list[int]]:
    return [[t for t in row if t >= 0] for row in said.tolist()]


def test_sentences_differ_and_end(net: EncoderDecoder, sources: Any) -> None:
    """What the other tests compare isn't the same everywhere: sentences of many lengths, some of which end."""
    with torch.no_grad():
        said = lists(greedy(net, sources, BEGIN, END, torch.full((24,), 15)))
    assert len({tuple(row) for row in said}) > 6
    assert 0 < sum(row[-1] == END for row in said) < 24


@pytest.mark.parametrize("beam", [1, 3])
def test_the_memory_changes_no_token(net: EncoderDecoder, sources: Any, beam: int) -> None:
    assert steps_of(net) is net
    assert isinstance(steps_of(nn.Linear(1, 1)), Again)
    with torch.no_grad():
        found = [
            greedy(steps, sources, BEGIN, END, LIMITS)
            if beam == 1
            else beam_search(steps, sources, BEGIN, END, LIMITS, beam)
            for steps in (net, Again(net))
        ]
    assert torch.equal(*found)


def test_a_step_gives_the_logits_of_the_whole_forward(net: EncoderDecoder, sources: Any) -> None:
    draw = torch.Generator().manual_seed(2)
    target = torch.randint(0, WORDS, (24, 9), generator=draw)
    with torch.no_grad():
        whole = net(*sources, target)
        remembered, parts = net.begin(*sources), []
        for place in range(9):
            logits, remembered = net.step(target[:, place], remembered)
            parts.append(logits)
    assert torch.allclose(torch.stack(parts, 1), whole, atol=1e-12)
    assert float(whole.std()) > 0.1


def test_a_step_rounds_positions_as_the_whole_forward_does(net: EncoderDecoder, sources: Any) -> None:
    """Tables of embeddings at 2 bits: cached decoding reads the rounded ones, as asking anew does."""
    form = {"bits": 2, "low": -1, "high": 1, "axis": 0}
    rounded = copy.deepcopy(net)
    quantize(rounded, {"tokens": {"weight": form}, "decoder.positions": {"weight": form}})
    for table in (rounded.tokens, rounded.decoder.positions):
        table.weight_scale.copy_(table.weight.detach().abs().amax(1))  # type: ignore[operator, union-attr]
    target = torch.randint(0, WORDS, (24, 5), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, plain = rounded(*sources, target), net(*sources, target)
        remembered, parts = rounded.begin(*sources), []
        for place in range(5):
            logits, remembered = rounded.step(target[:, place], remembered)
            parts.append(logits)
        found = [greedy(steps, sources, BEGIN, END, LIMITS) for steps in (rounded, Again(rounded))]
    assert not torch.allclose(whole, plain, atol=0.1)
    assert torch.allclose(torch.stack(parts, 1), whole, atol=1e-12)
    assert torch.equal(*found)


@pytest.mark.parametrize("known", [1, 5])
def test_a_language_model_steps_as_its_whole_forward_goes(known: int) -> None:
    """From beginnings of any length, also with tables rounded to 2 bits and with a head of a layer removed."""
    torch.manual_seed(3)
    net = LanguageModel(WORDS, LONGEST, dim=16, depth=3, heads=4, mlp=24).double().eval()
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.data *= 12
    plain = copy.deepcopy(net)
    attention = net.layers[1].attention
    for name in ("query", "key", "value"):
        own = getattr(attention, name)
        setattr(attention, name, nn.utils.skip_init(nn.Linear, 16, 12, dtype=torch.float64))
        getattr(attention, name).load_state_dict({k: v[:12] for k, v in own.state_dict().items()})
    attention.proj.weight = nn.Parameter(attention.proj.weight[:, :12].detach())
    form = {"bits": 2, "low": -1, "high": 1, "axis": 0}
    quantize(net, {"tokens": {"weight": form}, "positions": {"weight": form}})
    for table in (net.tokens, net.positions):
        table.weight_scale.copy_(table.weight.detach().abs().amax(1))  # type: ignore[operator, union-attr]
    ids = torch.randint(0, WORDS, (6, 12), generator=torch.Generator().manual_seed(2))
    there = torch.ones_like(ids)
    with torch.no_grad():
        whole = net(ids, there)
        logits, remembered = net.begun(ids[:, :known])
        parts = [logits]
        for place in range(known, 12):
            logits, remembered = net.step(ids[:, place], remembered)
            parts.append(logits)
    assert torch.allclose(torch.stack(parts, 1), whole[:, known - 1 :], atol=1e-12)
    assert not torch.allclose(whole, plain(ids, there), atol=0.1)
    assert float(whole.std()) > 0.1


@pytest.mark.parametrize("beam", [1, 4])
def test_company_changes_no_translation(net: EncoderDecoder, sources: Any, beam: int) -> None:
    """Alone, in another order, and with more padding beside it a sentence is translated alike."""

    def said(rows: Any, wide: int = 8) -> list[list[int]]:
        ids, mask = (nn.functional.pad(x[rows], (0, wide - 8)) for x in sources)
        if beam == 1:
            return lists(greedy(net, (ids, mask), BEGIN, END, LIMITS[rows]))
        return lists(beam_search(net, (ids, mask), BEGIN, END, LIMITS[rows], beam))

    with torch.no_grad():
        whole = said(slice(None))
        assert [said([k])[0] for k in range(24)] == whole
        turned = torch.randperm(24, generator=torch.Generator().manual_seed(3)).tolist()
        assert said(turned) == [whole[k] for k in turned]
        assert said(slice(None), wide=13) == whole


def test_a_beam_of_one_is_greedy(net: EncoderDecoder, sources: Any) -> None:
    with torch.no_grad():
        assert torch.equal(
            greedy(net, sources, BEGIN, END, LIMITS), beam_search(net, sources, BEGIN, END, LIMITS, 1)
        )


class Table(nn.Module):
    """Logits that the source's first token and all tokens so far decide, made up for each beginning."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = words
        self.known: dict[tuple[int, ...], Tensor] = {}

    def row(self, source: int, before: tuple[int, ...]) -> Tensor:
        key = (source, *before)
        if key not in self.known:
            draw = torch.Generator().manual_seed(hash(key) % 2**31)
            self.known[key] = torch.randn(self.words, generator=draw).double()
        return self.known[key]

    def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        rows = [self.row(int(s[0]), tuple(t.tolist())) for s, t in zip(ids, target, strict=True)]
        return torch.stack(rows)[:, None].expand(-1, target.shape[1], -1)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_that_keeps_all_finds_the_best_sentence(alpha: float) -> None:
    """Against every sentence that can be written in up to 4 tokens, each scored by hand."""
    words, begin, end = 4, 0, 1
    table = Table(words)
    ids = torch.arange(5, 25)[:, None]
    limits = 2 + torch.arange(20) % 3
    found = lists(beam_search(Again(table), (ids, ids), begin, end, limits, 108, alpha))
    for source, limit, said in zip(ids[:, 0].tolist(), limits.tolist(), found, strict=True):
        scores = {}
        for size in range(1, limit + 1):
            for text in itertools.product(range(words), repeat=size):
                if end in text[:-1] or (text[-1] != end and size < limit):
                    continue
                total = 0.0
                for place, token in enumerate(text):
                    row = table.row(source, (begin, *text[:place])).numpy()
                    total += float(row[token]) - math.log(sum(math.exp(v) for v in row))
                scores[text] = total / ((5 + size) / 6) ** alpha
        assert tuple(said) == max(scores, key=lambda text: scores[text])


def test_a_small_beam_follows_its_rule() -> None:
    """Beam 2 by hand: after the first token the two best stay, and an end among the best two is set aside."""
    #        after begin     after 2              after 3
    rows = {(): [0, 0.1, 0.5, 0.4], (2,): [0, 0.34, 0.33, 0.33], (3,): [0, 0.9, 0.05, 0.05]}

    class Fixed(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            said = [rows.get(tuple(t[1:].tolist()), [0, 1.0, 0, 0]) for t in target]
            return torch.tensor(said).double().clamp(min=1e-9).log()[:, None].expand(-1, target.shape[1], -1)

    one = torch.tensor([[4]])
    run = [lists(beam_search(Again(Fixed()), (one, one), 0, 1, torch.tensor([5]), b, 0.0))[0] for b in (1, 2)]
    assert run == [[2, 1], [3, 1]]  # .5 * .34 = .17, and .4 * .9 = .36, which greedy never sees


def test_a_beginning_that_leads_to_no_number_is_given_up() -> None:
    """After 2 all is NaN: the other one of two beginnings goes on, though less likely at first."""
    rows = {
        (): [0, 0.1, 0.5, 0.4],
        (2,): [math.nan] * 4,
        (3,): [0, 0.2, 0.0, 0.8],
        (3, 3): [0, 1.0, 0.0, 0.0],
    }

    class Partly(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            said = [rows.get(tuple(t[1:].tolist()), [0, 1.0, 0, 0]) for t in target]
            return torch.tensor(said).double().clamp(min=1e-9).log()[:, None].expand(-1, target.shape[1], -1)

    one = torch.tensor([[4]])
    assert lists(beam_search(Again(Partly()), (one, one), 0, 1, torch.tensor([5]), 2, 0.0)) == [[3, 3, 1]]


def test_penalty_is_wus() -> None:
    assert penalty(1, 0.6) == 1
    assert penalty(7, 1.0) == 2
    assert penalty(13, 0.5) == pytest.approx(math.sqrt(3))


def test_rows_that_have_ended_are_taken_out() -> None:
    """Of 8 sentences 7 end at once: the last one alone is asked from there on."""

    class Ends(nn.Module):
        asked: list[int]

        def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            self.asked.append(len(ids))
            logits = torch.tensor([0.3, 0.0, 0.2, 0.1]).repeat(len(ids), target.shape[1], 1)
            logits[..., 1] = torch.where(ids[:, 0] == 1, 5.0, -5.0)[:, None]
            return logits

    net = Ends()
    net.asked = []
    ids = torch.tensor([[1]] * 3 + [[0]] + [[1]] * 4)
    said = greedy(Again(net), (ids, ids), 0, 1, torch.full((8,), 6))
    assert net.asked == [8, 1, 1, 1, 1, 1]
    assert lists(said)[3] == [0] * 6
    assert lists(said)[0] == [1]
    net.asked = []
    assert lists(beam_search(Again(net), (ids, ids), 0, 1, torch.full((8,), 6), 1)) == lists(said)
    assert net.asked == [8, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("beam", [1, 2])
def test_no_number_is_an_empty_sentence(net: EncoderDecoder, sources: Any, beam: int) -> None:
    """A net whose logits are NaN for some sources says nothing there, and the others are as they were."""

    bad = int(sources[0][0, 0])

    class Lost(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
            lost = torch.where(ids[:, 0] == bad, torch.nan, 0.0)
            return net(ids, mask, target) + lost[:, None, None]

    def said(steps: Any, rows: Any) -> list[list[int]]:
        inputs = sources[0][rows], sources[1][rows]
        if beam == 1:
            return lists(greedy(steps, inputs, BEGIN, END, LIMITS[rows]))
        return lists(beam_search(steps, inputs, BEGIN, END, LIMITS[rows], beam))

    lost = (sources[0][:, 0] == bad).tolist()
    assert 0 < sum(lost) < 24
    with torch.no_grad():
        found, whole = said(Again(Lost()), slice(None)), said(net, slice(None))
    assert [row for row, gone in zip(found, lost, strict=True) if gone] == [[]] * sum(lost)
    kept = [k for k, gone in enumerate(lost) if not gone]
    assert [found[k] for k in kept] == [whole[k] for k in kept]


def test_memories_are_chosen_by_row() -> None:
    held = (torch.arange(3), (torch.arange(6).view(3, 2), ()))
    one, (two, none) = of_rows(held, torch.tensor([2, 0]))
    assert (one.tolist(), two.tolist(), none) == ([2, 0], [[4, 5], [0, 1]], ())
