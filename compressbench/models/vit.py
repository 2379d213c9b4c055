"""A small vision transformer (Dosovitskiy et al. 2021, in the size of ViT-Lite-6/4, Hassani et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.models.fit import heads_divide, image_shape, whole_sizes


class Attention(nn.Module):
    """Multi-head self-attention, written out.

    The fused kernel has no second derivative on CPUs; ``nn.MultiheadAttention`` hides its weights from
    pruning.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weights @ qkv[2]).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer layer: attention, then an MLP with GELU, each with a residual."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, class token, learnt positions, pre-norm layers, one classifier.

    3,190,538 parameters on 3 x 32 x 32. Initial values as in ViT-Lite: linear weights truncated normal 0.02,
    positions truncated normal 0.2, class token and their biases 0, norms weight 1; the patch embedding as
    torch draws it. No dropout, no stochastic depth.

    Args:
        shape: (channels, height, width) of an image; both sides multiples of ``patch``.
        classes: number of logits.
        patch: side of a patch in pixels.
        dim: width of a token, a multiple of ``heads``.
        depth: number of layers.
        heads: attention heads.
        mlp: hidden width of a layer's MLP.

    Raises:
        UserError: sides that ``patch`` doesn't divide, a width that ``heads`` doesn't, or a number below 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        patch: int = 4,
        dim: int = 256,
        depth: int = 6,
        heads: int = 4,
        mlp: int = 512,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, classes, "ViT")
        sizes = {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "mlp": mlp}
        whole_sizes("ViT", sizes)
        if height % patch or width % patch:
            raise UserError(
                f"ViT: patch {patch} does not divide images of {height}x{width}; choose one that does"
            )
        heads_divide("ViT", heads, dim)
        tokens = (height // patch) * (width // patch) + 1
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.positions, std=0.2)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        return self.fc(self.norm(self.blocks(x))[:, 0])
