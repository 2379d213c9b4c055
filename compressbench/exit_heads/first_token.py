"""First token: of texts, a pooler on the first token and a linear layer: BERT's own classifier after any layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressbench.errors import UserError


class FirstToken(nn.Module):
    """(n, tokens, c) to logits (n, classes)."""

    def __init__(self, width: int, classes: int, pooler: bool, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if pooler else nn.Identity()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.fc(self.pooler(self.norm(x[:, 0])))


def first_token(shape: Sequence[int], classes: int, pooler: bool = True, norm: bool = False) -> nn.Module:
    """The first token ([CLS]), a linear layer with tanh, a linear layer: DeeBERT's off-ramp (Xin et al. 2020).

    Args:
        shape: (tokens, width) of the value at the exit.
        classes: number of logits.
        pooler: false leaves the layer with tanh out (PABEE's internal classifiers).
        norm: whether the token is normalised first; BERT's layers have done so.

    Raises:
        UserError: the value is no tokens.
    """
    return FirstToken(width_of(shape, "first_token"), classes, pooler, norm)


def width_of(shape: Sequence[int], name: str) -> int:
    """The width of a token.

    Raises:
        UserError: the value is no tokens; ``name`` is the head's.
    """
    if len(shape) != 2:
        raise UserError(
            f"head: {name} takes tokens (tokens, width); the value at this exit is {tuple(shape)}"
        )
    return shape[1]
