"""Packing: named tensors as the bytes of a safetensors file, dense or without their zeros; reversible.

Each tensor takes the shortest of three forms: ``dense``; ``mask``, one bit an entry and the non-zero values;
``gaps``, the distances between non-zero entries (as small an integer as fits) and the values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

from compressbench.errors import UserError

_GAPS = ((torch.uint8, 2**8), (torch.uint16, 2**16), (torch.int32, 2**31), (torch.int64, 2**63))

_ENTRY = 64  # about what a tensor's entry takes in the header


def dense_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """All entries as they are."""
    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The shortest form of each tensor; ``unpack`` gives back equal tensors of the same dtype."""
    parts: dict[str, Tensor] = {}
    forms: dict[str, list[object]] = {}
    for place, (name, tensor) in enumerate(tensors.items()):
        form, pieces = min(_forms(tensor.detach().cpu().contiguous()), key=lambda f: _size(f[1]))
        forms[name] = [form, list(tensor.shape)]
        parts |= {f"{place}.{piece}": value for piece, value in pieces.items()}
    return save(parts, metadata={"tensors": json.dumps(forms, separators=(",", ":"))})


def unpack(data: bytes) -> dict[str, Tensor]:
    """The tensors that ``pack`` was given.

    Raises:
        UserError: the bytes are not of its making.
    """
    try:
        parts = load(data)
        length = int.from_bytes(data[:8], "little")
        forms = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tensors"])
        return {name: _restored(parts, i, *forms[name]) for i, name in enumerate(forms)}
    except Exception as error:
        raise UserError(f"not a packed set of tensors: {type(error).__name__}: {error}") from error


def _size(pieces: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() + _ENTRY for t in pieces.values())


def _forms(tensor: Tensor) -> list[tuple[str, dict[str, Tensor]]]:
    flat = tensor.reshape(-1)
    kept = flat != 0
    values, at = flat[kept], kept.nonzero().reshape(-1)
    gaps = torch.diff(at, prepend=at.new_zeros(1))
    dtype = next(d for d, limit in _GAPS if not len(gaps) or int(gaps.max()) < limit)
    return [
        ("dense", {"values": tensor.clone()}),
        ("mask", {"mask": _bits(kept), "values": values}),
        ("gaps", {"gaps": gaps.to(dtype), "values": values}),
    ]


def _bits(kept: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(kept.to(torch.uint8), (0, -len(kept) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(dim=1).to(torch.uint8)


def _restored(parts: Mapping[str, Tensor], place: int, form: str, shape: list[int]) -> Tensor:
    values = parts[f"{place}.values"]
    if form == "dense":
        return values
    flat = values.new_zeros(torch.Size(shape).numel())
    if form == "mask":
        mask = parts[f"{place}.mask"]
        kept = (mask[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        flat[kept.view(-1)[: len(flat)].bool()] = values
    else:
        flat[parts[f"{place}.gaps"].to(torch.int64).cumsum(0)] = values
    return flat.view(shape)
