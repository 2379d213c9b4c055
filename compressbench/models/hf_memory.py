"""Keys and values that transformers' nets remember while they write, as tuples of tensors with a row for each sentence.

The library's own cache is made of them for a step and taken apart after it, so that rows can be left out or repeated in
between as of any other net that decodes (``tasks.text.decoding.Steps``).
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from compressbench.models.hf import HuggingFace

Known = tuple[tuple[Tensor, ...], ...]
"""Of each layer keys and values of the tokens so far, (n, heads, tokens, width), and of the source where one is."""
Remembered = tuple[Tensor, Tensor, Known]
"""The encoder's states, where a source token is, and what the decoder's layers know: nothing before the first token."""


def remembers(net: nn.Module) -> bool:
    """Whether a net's memory is keys and values of all its layers in a row: none has a window, none was replaced.

    With a transformers that keeps them otherwise (before 4.54) none is.
    """
    try:
        from transformers.cache_utils import DynamicCache, DynamicLayer
    except ImportError:
        return False
    whole: Any = net
    if not _cache_name(whole) or not hasattr(whole, "get_decoder"):
        return False
    decoder = whole.get_decoder()
    layers = {m.layer_idx for m in decoder.modules() if getattr(m, "layer_idx", None) is not None}
    kinds = DynamicCache(config=whole.config).layers
    return bool(layers) and layers == set(range(len(layers))) and all(type(k) is DynamicLayer for k in kinds)


def agrees(module: HuggingFace) -> bool:
    """Whether a net writes with its memory as without, to a thousandth of the logits' deviation, on a few tokens.

    Not all of the library's do: some count positions by what is no padding, or keep elsewhere what their memory lacks.
    Padding is among the tokens, for a decoder may begin with it. A net that can't be asked so doesn't agree.
    """
    net: Any = module.net
    known: Any
    try:
        config = net.config.get_text_config(decoder=True)
        pad = net.config.pad_token_id if isinstance(net.config.pad_token_id, int) else 0
        ids = torch.randint(config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
        ids = ids.to(next(net.parameters()).device)
        ids[0, 0] = ids[1, 3] = pad
        mask = torch.ones_like(ids)
        with torch.no_grad():
            if module.form == "seq2seq":
                mask[1, 4:] = 0
                source = ids.flip(1).masked_fill(mask == 0, pad)
                whole, known, first = module(source, mask, ids), module.begin(source, mask), 0
            else:
                whole, known, first = module(ids, mask), module.begun(ids[:, :2])[1], 2
            near = 1e-3 * float(whole.std())
            for place in range(first, ids.shape[1]):
                logits, known = module.step(ids[:, place], known)
                if not float((logits - whole[:, place]).abs().max()) <= near:
                    return False
    except Exception:  # whatever the library says of a net that it can't ask so
        return False
    return True


def kinds(net: nn.Module) -> int:
    """A number that changes with the classes of a net's parts."""
    return hash(tuple(type(part) for part in net.modules()))


def begin(net: Any, input_ids: Tensor, attention_mask: Tensor) -> Remembered:
    """What is remembered before the first token: the encoder's states."""
    states = net.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return states, attention_mask, ()


def translated(net: Any, tokens: Tensor, remembered: Remembered) -> tuple[Tensor, Remembered]:
    """The token before (n,), to logits of the next one (n, vocabulary), and what is remembered with it."""
    from transformers.cache_utils import EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    states, mask, known = remembered
    own, source = _cache(k[:2] for k in known), _cache(k[2:] for k in known)
    found = net(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        decoder_input_ids=tokens[:, None],
        use_cache=True,
        **{_cache_name(net): EncoderDecoderCache(own, source)},
    )
    layers = zip(own.layers, source.layers, strict=True)
    after = tuple((o.keys, o.values, s.keys, s.values) for o, s in layers)
    return found.logits[:, -1], (states, mask, after)


def written(net: Any, tokens: Tensor, known: Known = ()) -> tuple[Tensor, Known]:
    """Tokens (n, tokens) after those that are known, to logits of the next one (n, vocabulary), and all that is known."""
    cache = _cache(known)
    found = net(input_ids=tokens, use_cache=True, **{_cache_name(net): cache})
    return found.logits[:, -1], tuple((layer.keys, layer.values) for layer in cache.layers)


def _cache_name(net: Any) -> str:
    """What a net's forward calls its memory, by the library's version; empty where it has none."""
    taken = inspect.signature(type(net).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), "")


def _cache(known: Any) -> Any:
    """The library's memory of each layer's keys and values, which are not copied."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in known:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache
