"""Next tokens: perplexity, and what it hides: KL to the reference, tokens that flip, where continuations part."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.tasks.text.next_token import NextToken
    from compressbench.views import View

QUANTILES = (50.0, 90.0, 99.0, 99.9)
COMPARED = (
    ("kl", "nats"), ("kl_50", "nats"), ("kl_90", "nats"), ("kl_99", "nats"), ("kl_99_9", "nats"), ("kl_max", "nats"),
    ("flipped", "%"), ("first_divergence", "tokens"), ("first_divergence_median", "tokens"), ("never_diverges", "%"),
)  # fmt: skip
"""What needs both to speak of the same tokens."""
OTHER = "it is of language models, and the task isn't next tokens"
ONLY = "such figures compare across tokenizers and lengths only where none is cut"


@dataclass(frozen=True)
class NextTokens:
    """A language model beside its reference, token by token of the test split.

    Perplexity; bits per byte of text, of the texts that weren't cut; KL(reference || subject) in nats a token: mean,
    quantiles, largest; the share of places at which another token is the likeliest; and, where both go on greedily from
    the same beginnings, the first token (from 1) in which they differ, those that never do counted as one more than
    were said, and the share of these. Where the two have other vocabularies, only the first two are told.

    Attributes:
        prompts: texts to go on from; null takes the beginnings of the test texts.
        beginnings: of how many test texts, where ``prompts`` is null.
        known: tokens of each that are given, what the tokenizer begins with included.
        tokens: said after each.
    """

    VERSION: ClassVar[int] = (
        3  # 3: transformers' nets too go on with keys and values remembered, which rounds otherwise
    )
    prompts: Sequence[str] | None = None
    beginnings: int = 64
    known: int = 4
    tokens: int = 24

    def __post_init__(self) -> None:
        for name in ("beginnings", "known", "tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"next_tokens: {name} is {value!r}, must be 1 or more")
        given = self.prompts
        if given is not None and (
            isinstance(given, str) or not given or not all(isinstance(text, str) for text in given)
        ):
            raise UserError("next_tokens: prompts is a list of texts, or null for the test texts' beginnings")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: too long a continuation is refused.

        Raises:
            UserError: see above.
        """
        if self.unfit(dataset):
            return
        task = _task(dataset.task)
        if self.prompts is None and self.known + self.tokens > task.length:
            raise UserError(
                f"next_tokens: {self.known} known and {self.tokens} said tokens are more than the {task.length} that "
                "dataset.task.length lets a model see"
            )

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.tasks.text.next_token import NextToken

        return "" if isinstance(dataset.task, NextToken) else OTHER

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, and of it against the reference."""
        from compressbench.probes.answered import answered

        if self.unfit(bench.dataset):
            told = (("perplexity", "1"), ("bits_per_byte", "bits"), *COMPARED)
            yield from (Metric(name, None, unit, note=OTHER) for name, unit in told)
            return
        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench.probes.side_by_side import different

        yield Metric("perplexity", _task(bench.task).overall(subject), "1", n=len(subject.told.labels))
        yield bits_per_byte(subject)
        if why := different(subject, reference):
            yield from (Metric(name, None, unit, note=why) for name, unit in COMPARED)
            return
        yield from _apart(subject, reference)
        yield from self._parting(subject, reference, bench)

    def _parting(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        import numpy as np

        from compressbench.comparing.sequences import first_difference

        own, other = (_continued(view, self, bench) for view in (subject, reference))
        places = first_difference(own, other)
        n, note = len(places), f"greedy, {self.tokens} tokens after each of {len(places)} beginnings"
        if not n:
            yield from (
                Metric(name, None, unit, note="no text is long enough") for name, unit in COMPARED[-3:]
            )
            return
        counted = np.where(places == 0, self.tokens + 1, places)
        yield Metric("first_divergence", float(counted.mean()), "tokens", n=n, note=note)
        yield Metric("first_divergence_median", float(np.median(counted)), "tokens", n=n, note=note)
        yield Metric("never_diverges", 100 * float((places == 0).mean()), "%", n=n, note=note)


def bits_per_byte(view: View) -> Metric:
    """All nats of the texts that weren't cut, over ln 2 and their UTF-8 bytes; what their end costs is counted too."""
    from compressbench.tasks.text.next_token import BYTES

    sizes = view.bench.feed("test")[BYTES].cpu()
    whole = sizes > 0
    size, cut = int(sizes.sum()), int((~whole).sum())
    note = f"{cut} texts that are cut or empty are left out; {ONLY}" if cut else ""
    if not size:
        return Metric("bits_per_byte", None, "bits", note="every text is cut; a larger dataset.task.length")
    nats = -float(view.told.likelihood[whole[view.told.owners]].sum())
    return Metric("bits_per_byte", nats / math.log(2) / size, "bits", n=int(whole.sum()), note=note)


def _apart(subject: View, reference: View) -> Iterable[Metric]:
    import numpy as np

    from compressbench.metrics import percent
    from compressbench.probes.side_by_side import apart

    found = apart(subject, reference)
    kl = found.kl.numpy()
    known = kl[~np.isnan(kl)]
    n = len(known)
    yield Metric("kl", float(known.mean()) if n else None, "nats", n=n)
    for at in QUANTILES:
        value = float(np.quantile(known, at / 100)) if n else None
        yield Metric(f"kl_{at:g}".replace(".", "_"), value, "nats", n=n)
    yield Metric("kl_max", float(known.max()) if n else None, "nats", n=n)
    yield Metric("flipped", percent(~found.same), "%", n=len(found.same))


_said: weakref.WeakKeyDictionary[View, dict[str, np.ndarray]]
_said = weakref.WeakKeyDictionary()


def _continued(view: View, settings: NextTokens, bench: Bench) -> np.ndarray:
    """(beginnings, tokens) what a view goes on with, greedily; found once for all that it is compared with."""
    import numpy as np

    from compressbench.comparing.sequences import ended

    known, asked = _said.setdefault(view, {}), repr(settings)
    if asked not in known:
        task = _task(bench.task)
        parts = [greedy(view, part, settings.tokens) for part in _prompts(settings, bench)]
        whole = np.concatenate(parts) if parts else np.zeros((0, settings.tokens), np.int64)
        known[asked] = ended(whole, task.tokenizer.end)
    return known[asked]


def _prompts(settings: NextTokens, bench: Bench) -> list[Tensor]:
    """int64 (n, tokens) beginnings, those of one length together."""
    import torch

    from compressbench.tasks.text.next_token import IDS

    task = _task(bench.task)
    if settings.prompts is None:
        ids, there = bench.feed("test")[IDS].padded(task.tokenizer.pad)
        long = there.sum(dim=1) >= settings.known
        chosen = ids[long][: settings.beginnings, : settings.known].long()
        return list(chosen.split(16))
    found: dict[int, list[list[int]]] = {}
    for text in settings.prompts:
        ids = task.beginning(text)
        if len(ids) + settings.tokens > task.length:
            raise UserError(
                f"next_tokens: prompts: {text[:40]!r} is {len(ids)} tokens, and with {settings.tokens} said ones more "
                f"than the {task.length} that dataset.task.length lets a model see"
            )
        found.setdefault(len(ids), []).append(ids)
    return [torch.tensor(rows, device=bench.device) for _, rows in sorted(found.items())]


def greedy(view: View, beginnings: Tensor, tokens: int) -> np.ndarray:
    """int64 (n, tokens): the likeliest token after (n, known) ids, again and again; what is no number is 0 from there.

    A net that ``remembers`` (see ``models.language_model``) keeps what it computed of the tokens before.
    """
    import torch

    from compressbench.metrics import named
    from compressbench.outputs import forward

    net: Any = view.module
    remembers = not view.leaves_early and getattr(net, "remembers", False)
    ids, known = beginnings, None
    with torch.inference_mode():
        for _ in range(tokens):
            if not remembers:
                logits = forward(view.fast, ids, torch.ones_like(ids)).logits[:, -1]
            elif known is None:
                logits, known = net.begun(ids)
            else:
                logits, known = net.step(ids[:, -1], known)
            ids = torch.cat((ids, named(logits).clamp(min=0)[:, None]), dim=1)
    said: np.ndarray = ids[:, beginnings.shape[1] :].cpu().numpy()
    return said


def _task(task: object) -> NextToken:
    """A task that is of next tokens.

    Raises:
        UserError: it is another one.
    """
    from compressbench.tasks.text.next_token import NextToken

    if not isinstance(task, NextToken):
        raise UserError(
            f"next_tokens is of tasks of compressbench.tasks.text.next_token, and this one is a {type(task).__name__}"
        )
    return task
