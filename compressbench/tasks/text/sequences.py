"""What the tasks of texts share: inputs without content, likelihoods token by token, facts for a model's spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressbench.tasks.text.tokens import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from compressbench.tasks.task import NoSurface, Pieces


def blank(tokenizer: Tokenizer, length: int, n: int) -> tuple[Tensor, Tensor]:
    """Rows of padding (n, length), all looked at: ids and mask, int64."""
    import torch

    ids = torch.full((n, length), tokenizer.pad)
    return ids, torch.ones_like(ids)


def drawn(tokenizer: Tokenizer, length: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random tokens (n, length), of random lengths: ids and mask, int64."""
    import torch

    ids = torch.randint(0, tokenizer.size, (n, length), generator=generator)
    lengths = torch.randint(1, length + 1, (n, 1), generator=generator)
    there = torch.arange(length) < lengths
    return ids.masked_fill(~there, tokenizer.pad), there.long()


def token_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy over tokens, in nats.

    Args:
        logits: (n, places, vocabulary).
        wanted: int64 (n, places), -1 where there is none.
    """
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1)


def token_pieces(logits: Tensor, wanted: Tensor) -> Pieces:
    """(tokens, vocabulary) log-probabilities, a piece a token that has a label; arguments as of ``token_loss``."""
    import torch.nn.functional as F

    from compressbench.tasks.task import Pieces

    owners, places = (wanted >= 0).nonzero(as_tuple=True)
    found = F.log_softmax(logits[owners, places].float(), dim=-1)
    return Pieces(found, owners, wanted[owners, places])


def no_surface() -> NoSurface:
    """None that a pixel's attack could use."""
    from compressbench.tasks.task import NoSurface

    return NoSurface("a text can't be changed a little, as the pixels of a picture can")


def shared_facts(
    tokenizer: Tokenizer, length: int, form: str, inputs: Sequence[str], names: Sequence[str] = ()
) -> dict[str, Any]:
    """``@vocabulary``, ``@length``, ``@pad``, and what a folder's model must agree on (``models.hf``): ``@form`` …"""
    return {
        "@vocabulary": tokenizer.size,
        "@length": length,
        "@pad": tokenizer.pad,
        "@form": form,
        "@inputs": list(inputs),
        "@names": list(names),
        "@tokenizer": tokenizer.digest,
    }
