"""Small transformers with random weights, in directories such as `transformers` makes, and tasks of some lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

__all__ = ["SENTENCES", "decoder", "encoder", "pairs_task", "span_task"]

SENTENCES = [
    "a cat sat on the mat",
    "the dog ran far away from here",
    "it rains",
    "numbers are many and long sentences are longer than short ones",
    "where is it",
    "nobody knows where the dog went",
    "rain falls on the mat",
]


def _tokenizer(special: str | None, **roles: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*roles.values()], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if special is not None:
        numbers = [(roles[name], tokenizer.token_to_id(roles[name])) for name in ("cls_token", "sep_token")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=numbers
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def encoder(folder: Path) -> Path:
    """A BERT of two blocks of width 16."""
    from transformers import BertConfig, BertModel

    tokenizer = _tokenizer("pair", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def decoder(folder: Path) -> Path:
    """A GPT-2 of two blocks of width 16, which has no token for padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _tokenizer(None, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=128, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs_task(folder: Path, kind: str = "pair", **keys: Any) -> str:
    """40 pairs of sentences, of two classes, or with scores from 0 to 4."""
    rows = [
        f"{SENTENCES[at % 7]}\t{SENTENCES[at % 5]}\t{at % 2 if kind == 'pair' else (at % 7 + at % 5) % 5}"
        for at in range(40)
    ]
    (folder / "rows.tsv").write_text("a\tb\tlabel\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    content = {"kind": kind, "columns": ["a", "b"], "train": "rows.tsv", "reported": "rows.tsv", **keys}
    if kind == "pair":
        content.setdefault("num_labels", 2)
    return _described(folder / "pairs.toml", content)


def span_task(folder: Path, questions: int = 24, **keys: Any) -> str:
    """Questions after a word of a text that is longer than a window of 16 tokens."""
    paragraphs = []
    for at in range(questions // 2):
        context = f"{at} texts. " + ". ".join(SENTENCES[at % 7 :] + SENTENCES[: at % 7]) + "."
        asked = [
            {"question": f" Where is the {word}?", "answers": [{"text": word, "answer_start": context.index(word)}]}
            for word in ("dog", "rain falls")
        ]
        paragraphs.append({"context": context, "qas": asked})
    content = {"version": "1.1", "data": [{"title": "all", "paragraphs": paragraphs}]}
    (folder / "rows.json").write_text(json.dumps(content), encoding="utf-8")
    described = {"kind": "span", "columns": ["question", "context"], "train": "rows.json", "reported": "rows.json"}
    return _described(folder / "spans.toml", {**described, **keys})


def _described(path: Path, content: dict[str, Any]) -> str:
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in content.items()), encoding="utf-8")
    return str(path)
