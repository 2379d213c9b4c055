"""Coding: what a compressed state takes on disk, as bytes that give it back: integers, codebooks, gaps, Huffman codes.

A tensor of few different values is codes and a table: the integers of a quantized weight with its scales, or indices
into the codebook of a shared one (Han et al. 2016). Its codes are written in the shortest of three forms: ``all`` of
them; a ``mask`` of one bit an entry and the codes of what isn't zero; or the ``gaps`` between those and their codes.
Streams of codes have a fixed width or, with ``huffman``, a canonical Huffman code whose lengths are counted too.

The file is eight bytes (the header's length), a JSON header, all other tensors as ``packing`` makes them, and the
streams.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.hardware.packing import pack, unpack
from compressbench.models.quantized import FLOATS, forms_of, integers, quantized, scales_of

Ints = np.ndarray[Any, np.dtype[np.int64]]

_GAP_BITS = range(1, 17)
_LONGEST = 255


@dataclass(frozen=True)
class Coded:
    """A tensor as integers and what gives its values back.

    Attributes:
        codes: int64, the tensor's shape, 0 to below 2**bits.
        bits: width of a code.
        zero: the code whose value is exactly 0 everywhere; None where channels differ in it, or none is.
        tables: small tensors that decode it: ``scale`` and ``zero`` of integers, or ``values`` of a codebook.
        low: what code 0 means as an integer, for integers.
    """

    codes: Tensor
    bits: int
    zero: int | None
    tables: Mapping[str, Tensor]
    low: int = 0


def of_integers(q: Tensor, bits: int, low: int, scale: Tensor, zero: Tensor) -> Coded:
    """Integers from ``low`` on with scales and zero points, one each or one an output channel."""
    points = torch.unique(zero)
    tables = {"scale": scale.reshape(-1), "zero": zero.reshape(-1)}
    if len(points) == 1:
        tables["zero"] = points
    code = int(points[0]) - low if len(points) == 1 else None
    return Coded(q.to(torch.int64) - low, bits, code, tables, low)


def shared(tensor: Tensor) -> Coded | None:
    """A tensor of few different values as indices into them; None where that is no shorter than the floats."""
    flat = tensor.detach().cpu().reshape(-1)
    if not flat.is_floating_point() or flat.numel() < 2:
        return None
    values, codes = torch.unique(flat, return_inverse=True)
    zeros = (values == 0).nonzero().reshape(-1)
    bits = max(1, (len(values) - 1).bit_length())
    kept = int(flat.count_nonzero())
    if len(values) * 8 * flat.element_size() + kept * bits >= kept * 8 * flat.element_size():
        return None
    zero = int(zeros[0]) if len(zeros) else None
    return Coded(codes.view(tensor.shape), bits, zero, {"values": values})


def index_bits(tensor: Tensor) -> int | None:
    """Bits of an index into the values of a tensor that shares them, its zeros apart; None where it doesn't."""
    coded = shared(tensor)
    if coded is None:
        return None
    return max(1, (len(coded.tables["values"]) - (coded.zero is not None) - 1).bit_length())


def values_of(coded: Coded) -> Tensor:
    """The tensor again; float32 of integers, shared values of their own type."""
    if "values" in coded.tables:
        return coded.tables["values"][coded.codes]
    shape = (-1, *[1] * (coded.codes.ndim - 1))
    scale, zero = coded.tables["scale"], coded.tables["zero"]
    s = scale.view(shape) if scale.numel() > 1 else scale.reshape(())
    z = zero.view(shape) if zero.numel() > 1 else zero.reshape(())
    return (coded.codes + coded.low - z).to(torch.float32) * s


def stored(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Coded]]:
    """(tensors that a state takes on disk, those of them that are codes): what rounds is stored rounded.

    Integers and shared values are codes; weights of bfloat16 or float16 layers are of that type; the inputs' scales
    come along.

    Args:
        module: as built from the state.
        weights: the state's, by the same names.
    """
    tensors = dict(weights) | {n: t for n, t in scales_of(module).items() if ".input|" in n}
    coded: dict[str, Coded] = {}
    for name, layer in quantized(module).items():
        form, full = forms_of(layer)["weight"], f"{name}.weight"
        if form is None or full not in weights:
            continue
        if "dtype" in form:
            tensors[full] = weights[full].to(FLOATS[form["dtype"]])
            continue
        scale, zero = (layer._buffers[f"weight_{entry}"] for entry in ("scale", "zero"))
        assert scale is not None
        assert zero is not None
        q = integers(weights[full], form, scale.cpu(), zero.cpu())
        coded[full] = of_integers(q, form["bits"], form["low"], scale.cpu(), zero.cpu())
    for name, tensor in tensors.items():
        if name not in coded and (found := shared(tensor)) is not None:
            coded[name] = found
    return tensors, coded


def encode(tensors: Mapping[str, Tensor], coded: Mapping[str, Coded], huffman: bool = False) -> bytes:
    """All tensors as bytes: those in ``coded`` by their codes, the others without their zeros.

    Args:
        tensors: by name; the values of one in ``coded`` don't matter.
        coded: by name.
        huffman: streams take a Huffman code where that, with its table, is shorter than a fixed width.
    """
    plain = pack({name: t for name, t in tensors.items() if name not in coded})
    header: dict[str, Any] = {}
    chunks = [plain]
    for name, found in coded.items():
        header[name], parts = _codes(found, huffman)
        chunks += parts
    head = json.dumps({"plain": len(plain), "coded": header}, separators=(",", ":")).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *chunks])


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Coded]]:
    """(tensors, coded ones) that ``encode`` was given; values of coded tensors by ``values_of``.

    Raises:
        UserError: the bytes are not of its making.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        place = 8 + length + header["plain"]
        plain, coded = unpack(data[8 + length : place]), {}
        for name, entry in header["coded"].items():
            ends = np.cumsum([place, *entry["sizes"]]).tolist()
            coded[name] = _decoded(entry, [data[a:b] for a, b in itertools.pairwise(ends)])
            place = ends[-1]
        return plain, coded
    except Exception as error:
        raise UserError(f"not an encoded set of tensors: {type(error).__name__}: {error}") from error


def pack_bits(codes: Ints, bits: int) -> bytes:
    """Non-negative integers below 2**bits, each in exactly that many bits, the last byte filled up with zeros."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits(((codes[:, None] >> places) & 1).astype(np.uint8).reshape(-1)).tobytes()


def unpack_bits(data: bytes, bits: int, count: int) -> Ints:
    """The integers that ``pack_bits`` was given."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=bits * count).reshape(count, bits)
    return flat.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))


def huffman_lengths(counts: Sequence[int]) -> list[int]:
    """Code lengths of symbols by how often they occur (Huffman 1952); 0 for one that doesn't, 1 for a lone one."""
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count
    ]
    lengths = [0] * len(counts)
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*a[2], *b[2]):
            lengths[symbol] += 1
        heapq.heappush(heap, (a[0] + b[0], min(a[1], b[1]), (*a[2], *b[2])))
    return lengths


def canonical(lengths: Sequence[int]) -> list[int]:
    """Code words from their lengths: shorter ones first, then by symbol, each the one before plus one."""
    words, word, last = [0] * len(lengths), 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths) if n):
        word <<= length - last
        words[symbol], last = word, length
        word += 1
    return words


def huffman_encode(codes: Ints, symbols: int) -> bytes | None:
    """A table of ``symbols`` code lengths of one byte, then the code words; None where a word is too long."""
    lengths = np.array(huffman_lengths(np.bincount(codes, minlength=symbols).tolist()), np.int64)
    longest = int(lengths.max(initial=0))
    if longest > min(_LONGEST, 62):
        return None
    words = np.array(canonical(lengths.tolist()), np.int64)
    own, word = lengths[codes], words[codes]
    places = np.arange(longest - 1, -1, -1)
    bits = ((word[:, None] >> places) & 1).astype(np.uint8)[places[None] < own[:, None]]
    return lengths.astype(np.uint8).tobytes() + np.packbits(bits).tobytes()


def huffman_decode(data: bytes, symbols: int, count: int) -> Ints:
    """The codes that ``huffman_encode`` was given."""
    lengths = list(data[:symbols])
    words = canonical(lengths)
    known = {(n, words[s]): s for s, n in enumerate(lengths) if n}
    out, word, length = np.empty(count, np.int64), 0, 0
    stream = iter(np.unpackbits(np.frombuffer(data[symbols:], np.uint8)).tolist())
    for i in range(count):
        while (length, word) not in known:
            word, length = (word << 1) | next(stream), length + 1
        out[i], word, length = known[(length, word)], 0, 0
    return out


def _tensor(tensor: Tensor) -> tuple[dict[str, Any], list[bytes]]:
    flat = tensor.detach().cpu().contiguous()
    raw = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {"dtype": _dtype(flat), "shape": list(flat.shape), "sizes": [len(raw)]}, [raw]


def _from_bytes(raw: bytes, dtype: str, shape: Sequence[int]) -> Tensor:
    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"no dtype {dtype!r}")
    return (
        torch.frombuffer(bytearray(raw), dtype=kind).view(list(shape))
        if raw
        else torch.empty(list(shape), dtype=kind)
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _codes(coded: Coded, huffman: bool) -> tuple[dict[str, Any], list[bytes]]:
    tables = {name: _tensor(table) for name, table in coded.tables.items()}
    form, streams = min(_forms(coded, huffman), key=lambda f: sum(len(s[1]) + len(str(s[0])) for s in f[1]))
    entry: dict[str, Any] = {
        "bits": coded.bits,
        "shape": list(coded.codes.shape),
        "low": coded.low,
        "zero": coded.zero,
        "form": form,
        "streams": [s[0] for s in streams],
        "tables": {n: [e["dtype"], e["shape"]] for n, (e, _) in tables.items()},
    }
    parts = [*(p for _, ps in tables.values() for p in ps), *(s[1] for s in streams)]
    return {**entry, "sizes": [len(p) for p in parts]}, parts


Stream = tuple[list[Any], bytes]
"""[how, bits of a symbol, how many] and the bytes."""


def _forms(coded: Coded, huffman: bool) -> list[tuple[str, list[Stream]]]:
    flat: Ints = coded.codes.reshape(-1).numpy()
    found = [("all", [_stream(flat, coded.bits, huffman)])]
    if coded.zero is None:
        return found
    kept = flat != coded.zero
    codes = flat[kept] - (flat[kept] > coded.zero)  # zeros are in the mask: no code
    width = max(1, (int(codes.max(initial=0))).bit_length())
    codes_stream = _stream(codes, width, huffman)
    found.append(("mask", [_stream(kept.astype(np.int64), 1, False), codes_stream]))
    gaps = np.diff(kept.nonzero()[0], prepend=-1) - 1
    bits = min(_GAP_BITS, key=lambda b: b * (len(gaps) + int((gaps // (2**b - 1)).sum())))
    choices = [_stream(_escaped(gaps, b), b, huffman) for b in ({bits, 8} if huffman else {bits})]
    found.append(("gaps", [min(choices, key=lambda s: len(s[1])), codes_stream]))
    return found


def _escaped(gaps: Ints, bits: int) -> Ints:
    """Gaps as symbols of so many bits; the largest symbol adds 2**bits - 1 to the gap and goes on."""
    most = 2**bits - 1
    extra = gaps // most
    out = np.full(len(gaps) + int(extra.sum()), most, np.int64)
    out[np.cumsum(extra + 1) - 1] = gaps % most
    return out


def _stream(codes: Ints, bits: int, huffman: bool) -> Stream:
    fixed = pack_bits(codes, bits)
    short = huffman_encode(codes, 2**bits) if huffman and len(codes) else None
    if short is not None and len(short) < len(fixed):
        return ["huffman", bits, len(codes)], short
    return ["fixed", bits, len(codes)], fixed


def _read(stream: Sequence[Any], raw: bytes) -> Ints:
    how, bits, count = stream
    return huffman_decode(raw, 2**bits, count) if how == "huffman" else unpack_bits(raw, bits, count)


def _decoded(entry: Mapping[str, Any], parts: Sequence[bytes]) -> Coded:
    names = list(entry["tables"])
    tables = {n: _from_bytes(parts[i], *entry["tables"][n]) for i, n in enumerate(names)}
    streams = [_read(s, raw) for s, raw in zip(entry["streams"], parts[len(names) :], strict=True)]
    shape, zero = entry["shape"], entry["zero"]
    if entry["form"] == "all":
        flat = streams[0]
    else:
        flat = np.full(int(np.prod(shape, dtype=np.int64)), zero, np.int64)
        codes = streams[1] + (streams[1] >= zero)
        if entry["form"] == "mask":
            flat[streams[0].astype(bool)] = codes
        else:
            most = 2 ** entry["streams"][0][1] - 1
            ends = (streams[0] != most).nonzero()[0]
            places = np.cumsum(streams[0])[ends] + np.arange(len(ends))
            flat[places] = codes
    return Coded(torch.from_numpy(flat).view(list(shape)), entry["bits"], zero, tables, entry["low"])
