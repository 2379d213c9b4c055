"""Small folders as transformers writes them, and a few texts in a file, for the tests of Hugging Face's models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from compressbench.tasks.text.tokens import trained

WORDS = ["red", "blue", "quick", "slow", "old", "bird", "stone", "river", "house", "cloud"]
TEXTS = [
    f"the {a} {b} sees a {c}" for a in WORDS[:5] for b in WORDS[5:] for c in ("bird", "tall house by the sea")
]
SIZES: dict[str, dict[str, Any]] = {
    "Bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 20,
    },
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 20},
    "Roberta": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 22, "pad_token_id": 1, "type_vocab_size": 1,
    },
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 20, "n_inner": 24},
    "Llama": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 20,
    },
    "Mistral": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 20,
    },
    "T5": {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "Bart": {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 20,
    },
}  # fmt: skip


def spread(module: torch.nn.Module, by: float = 8.0) -> torch.nn.Module:
    """Larger weights than transformers draws, and biases, so that heads and words differ in what they do."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "norm" not in name.lower():
                p.mul_(by).add_(0.02 * torch.randn(p.shape, generator=generator))
    return module


def a_folder(path: Path, kind: str = "Bert", head: str = "Model", **config: Any) -> Path:
    """A folder of a small model with a tokenizer trained on ``TEXTS``."""
    import transformers

    tokenizer = trained(TEXTS, 300)
    config = {"vocab_size": tokenizer.size, **SIZES[kind], **config}
    torch.manual_seed(5)
    module = getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**config))
    spread(module).save_pretrained(path)
    (path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    return path


def edited(path: Path, **changes: Any) -> Path:
    """The folder with entries of its config changed; None takes one out."""
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return path


def texts_of(
    path: Path, folder: Path, classes: tuple[str, ...] = ("neg", "pos"), **task: Any
) -> dict[str, Any]:
    """The config of a data set of ``TEXTS``, classes in turn, cut by the folder's tokenizer."""
    rows = [f"{text}\t{classes[i % len(classes)]}" for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    return {
        "name": "own",
        "read": {"_target_": "compressbench.data.texts.text_file", "train": str(path), "test_fraction": 0.3},
        "validation": 6,
        "task": {
            "_target_": "compressbench.tasks.text.classification.text_classification",
            "length": 12,
            "tokenizer": str(folder),
            **task,
        },
    }


def hf(folder: Path, **build: Any) -> dict[str, Any]:
    """The model config of a folder, as conf/model/hf.yaml has it."""
    names = ("form", "inputs", "names", "vocabulary", "length", "tokenizer")
    spec = {"_target_": "compressbench.models.hf.folder", "folder": str(folder), "new_head": False}
    return {"name": "hf", "build": {**spec, **{n: f"@{n}" for n in names}, **build}, "weights": None}
