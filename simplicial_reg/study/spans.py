r"""Questions whose answer is a span of a text: how they are read, how spans of tokens become answers, and how answers are scored.

Scores are those of SQuAD 1.1. Answer and prediction are made lower case, lose punctuation, then the words a, an and the, and their
blanks become single ones; then

    exact_match    1 if the two are equal, else 0
    f1             2 p r / (p + r) of the words that they share, counted as often as both have them, p of the prediction's words and
                   r of the answer's; 0 if they share none

For each question the best over its answers is taken, and the mean over questions is the score. Two empty texts are an exact match
and share no word.

A text that is longer than the model takes is read in windows that overlap. Of each window the best span is the one with the largest
sum of the logits of its first and last token, at most 30 tokens long and inside the text; of all windows of a question the one with
the largest sum is the answer.

References: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1 (scores); Devlin et al. 2019,
"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", section 4.2 (spans and their training).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ANSWER_METRICS",
    "Answers",
    "answers_of",
    "best_spans",
    "exact_match",
    "place",
    "read_squad",
    "score_answers",
    "whole_texts",
    "word_f1",
]

LONGEST = 30  # tokens of an answer

Answers = tuple[tuple[str, int], ...]  # of one question: texts, and where in the context each begins


# --- scores ---------------------------------------------------------------------------------------------------------------------


def exact_match(predicted: str, answer: str) -> float:
    """Whether two answers are the same but for case, punctuation, articles and blanks.

    Example:
        >>> exact_match("the Eiffel  tower.", "Eiffel Tower"), exact_match("tower", "Eiffel Tower")
        (1.0, 0.0)
    """
    return float(_plain(predicted) == _plain(answer))


def word_f1(predicted: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the words.

    Example:
        >>> word_f1("in the Eiffel tower", "Eiffel Tower")
        0.8
    """
    found, wanted = _plain(predicted).split(), _plain(answer).split()
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


# Of a prediction and an answer; bigger is better.
ANSWER_METRICS: dict[str, Callable[[str, str], float]] = {"f1": word_f1, "exact_match": exact_match}


def score_answers(metric: str, answers: Sequence[Answers], predicted: Sequence[str]) -> float:
    """The mean over questions of the best over their answers."""
    score = ANSWER_METRICS[metric]
    best = [max(score(said, text) for text, _ in wanted) for said, wanted in zip(predicted, answers, strict=True)]
    return float(np.mean(best))


def _plain(text: str) -> str:
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


# --- examples -------------------------------------------------------------------------------------------------------------------


def read_squad(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a file as SQuAD publishes them: articles with paragraphs with questions.

    Raises:
        ValueError: if it is not JSON, or not of this form; it says where.
    """
    where = ""
    try:
        rows = []
        for article, entry in enumerate(json.loads(path.read_text(encoding="utf-8-sig"))["data"], 1):
            for paragraph, text in enumerate(entry["paragraphs"], 1):
                where = f", article {article}, paragraph {paragraph}"
                for question in text["qas"]:
                    answers = {name: [one[name] for one in question["answers"]] for name in ("text", "answer_start")}
                    rows.append({"question": question["question"], "context": text["context"], "answers": answers})
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is not JSON: {error.msg}") from error
    except KeyError as error:
        raise ValueError(f"{path}{where}: must be as SQuAD 1.1 has it; {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}{where}: must be as SQuAD 1.1 has it: data, paragraphs, context, qas, answers"
        ) from error
    return ["question", "context", "answers"], rows


def answers_of(value: Any, context: str, where: str) -> Answers:
    """The answers of a question, ``{"text": [...], "answer_start": [...]}``.

    Where the context has another text than the answer at the place that is said, the nearest place with the answer is taken.

    Raises:
        ValueError: if they are none of this context; it says where.
    """
    texts, starts = (value.get("text"), value.get("answer_start")) if isinstance(value, dict) else (None, None)
    if not (
        isinstance(texts, (list, tuple))
        and isinstance(starts, (list, tuple))
        and len(texts) == len(starts)
        and all(isinstance(text, str) and text.strip() for text in texts)
        and all(isinstance(start, int) and not isinstance(start, bool) for start in starts)
    ):
        shown = repr(value)
        raise ValueError(
            f'{where}: answers must be {{"text": [texts], "answer_start": [their places in the context]}}; '
            f"got {shown if len(shown) < 80 else shown[:80] + '...'}"
        )
    if not texts:
        raise ValueError(f"{where}: there must be an answer; questions without one, as in SQuAD 2, are not read")
    found = []
    for text, start in zip(texts, starts, strict=True):
        places = [at.start() for at in re.finditer(f"(?={re.escape(text)})", context)]
        if not places:
            raise ValueError(f"{where}: the answer {text!r} must be in the context, which does not have it")
        found.append((text, min(places, key=lambda place, start=start: abs(place - start))))  # type: ignore[misc]
    return tuple(found)


def whole_texts(contexts: Sequence[str], size: int, generator: np.random.Generator) -> list[int]:
    """Rows of random contexts, all rows of each, until there are at least so many; the questions of a text are not torn apart."""
    rows: dict[str, list[int]] = {}
    for row, context in enumerate(contexts):
        rows.setdefault(context, []).append(row)
    groups = list(rows.values())
    chosen: list[int] = []
    for at in generator.permutation(len(groups)):
        if len(chosen) >= size:
            break
        chosen += groups[at]
    return sorted(chosen)


# --- tokens ---------------------------------------------------------------------------------------------------------------------


def place(offsets: Tensor, start: int, end: int) -> tuple[int, int]:
    """The first and the last token of a span of characters in a window.

    Args:
        offsets: ``(T, 2)``, where each token begins and ends in the context, or -1 for tokens of other texts.
        start: where the span begins.
        end: where it ends.

    Returns:
        The two tokens; 0 and 0, the first token of all, if the span is not wholly in the window.

    Example:
        >>> place(torch.tensor([[-1, -1], [0, 3], [4, 9], [9, 10]]), 4, 10)
        (2, 3)
    """
    inside = offsets[:, 0] >= 0
    if not inside.any() or start < int(offsets[inside, 0].min()) or end > int(offsets[inside, 1].max()):
        return 0, 0
    tokens = (inside & (offsets[:, 1] > start) & (offsets[:, 0] < end)).nonzero().squeeze(-1)
    return (int(tokens[0]), int(tokens[-1])) if len(tokens) else (0, 0)


def best_spans(logits: Tensor, context: Tensor, *, longest: int = LONGEST) -> Tensor:
    """The best span of each window.

    Args:
        logits: ``(n, T, 2)``, for each token how well an answer begins and ends there.
        context: bool ``(n, T)``, True where the token is one of the context.
        longest: tokens that a span may have.

    Returns:
        ``(n, 3)``: the sum of the two logits, the first and the last token. Without any token of the context the sum is the least number
        there is.

    Example:
        >>> logits = torch.tensor([[[9.0, 9.0], [3.0, 1.0], [0.0, 2.0], [2.0, 4.0]]])
        >>> best_spans(logits, torch.tensor([[False, True, True, True]])).tolist()
        [[7.0, 1.0, 3.0]]
        >>> best_spans(logits, torch.tensor([[False, True, True, True]]), longest=2).tolist()
        [[6.0, 3.0, 3.0]]
    """
    logits = logits.float()
    tokens = logits.shape[1]
    sums = logits[:, :, None, 0] + logits[:, None, :, 1]
    at = torch.arange(tokens, device=logits.device)
    ahead = at - at.unsqueeze(1)
    allowed = (ahead >= 0) & (ahead < longest) & context[:, :, None] & context[:, None, :]
    best, which = sums.masked_fill(~allowed, torch.finfo(sums.dtype).min).flatten(1).max(1)
    return torch.stack([best, which // tokens, which % tokens], 1)
