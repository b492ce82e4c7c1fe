"""The embedded text task: which library does this sentence of a docstring come from?

The sentences are read from the sources of the installed numpy, scipy, scikit-learn and torch with `ast`; nothing is imported, downloaded or
shipped. So the sentences depend on the versions that are installed, and results are comparable for equal ``Task.fingerprint`` only.

What is a sentence: prose of a docstring, up to its examples; paragraphs are cut at full stops, and parts that are no prose (code,
headings, tables, signatures) are dropped. A sentence has 6 to 24 words, of which most are words. Words that name a library
(numpy, np, scipy, sklearn, torch, TorchScript, ...) are replaced by "the library"; "tensor" and "estimator" are not: what a library
is about is what a reader tells it by.

Parts. A source file belongs to one part, by the hash of its path: no two parts share a file. Of a file at most 16 sentences are
taken, so that no file dominates. A sentence nearly the same as one already taken, of whatever
library and part, is dropped: equal but for case, digits and punctuation, or a Jaccard index of at least 0.5 between the sets of
three consecutive words (Broder 1997, "On the resemblance and containment of documents"). Every library has equally many
sentences in each part.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LIBRARIES", "read_sentences"]

LIBRARIES = ("numpy", "scipy", "sklearn", "torch")
NAMES = {"sklearn": "scikit-learn"}  # as pip calls it
SKIPPED_FOLDERS = {"tests", "testing", "test", "_vendor", "externals", "_array_api_compat", "array_api_compat"}
# In tenths of the files: six of train, one held out from it, three reported.
PARTS = ("train",) * 6 + ("held_out",) + ("reported",) * 3
PER_FILE = 16
LARGEST = 60_000  # bytes of a source: reading a larger one takes long, and still only so many sentences are taken
NEAR = 0.5

GIVES_AWAY = re.compile(r"\w*(numpy|scipy|sklearn|scikit[-_ ]?learn|torch)\w*|\b(np|sp)(?=\.)", re.I)
ROLE = re.compile(r":[a-z:]+:`~?([^`<]*)(?:<[^`]*>)?`")
SENTENCE_END = re.compile(r"(?<=[a-z0-9)`'\"][.!?])\s+(?=[A-Z])")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
EXAMPLES = re.compile(r"^\s*(Examples?|References|See Also)\s*:*\s*$", re.M)


def read_sentences(sizes: dict[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Sentences of each part with the number of their library, as many of each library.

    Args:
        sizes: for each part, how many sentences of each library are wanted; if a library has fewer, all get as few.

    Returns:
        For each part pairs of a sentence and the index of its library in ``LIBRARIES``.

    Raises:
        ImportError: if a library is not installed.
    """
    seen = _Seen()
    found: dict[str, list[list[str]]] = {part: [] for part in sizes}
    for library in LIBRARIES:
        taken: dict[str, list[str]] = {part: [] for part in sizes}
        for name, path in _files(library):
            part = PARTS[_hash(name) % len(PARTS)]
            if len(taken[part]) < sizes[part]:
                new = (sentence for sentence in _sentences(path) if seen.add(sentence))
                taken[part] += [sentence for _, sentence in zip(range(PER_FILE), new, strict=False)]
            if all(len(taken[one]) >= sizes[one] for one in sizes):
                break
        for part, sentences in taken.items():
            found[part].append(sentences[: sizes[part]])
    return {
        part: [
            (sentence, label) for label, sentences in enumerate(lists) for sentence in sentences[: min(map(len, lists))]
        ]
        for part, lists in found.items()
    }


def _files(library: str) -> list[tuple[str, Path]]:
    """Sources of a library in an order that only their names decide."""
    found = importlib.util.find_spec(library)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f"the task docstrings needs the sources of {NAMES.get(library, library)}; pip install 'simplicial_reg[study]'"
        )
    root = Path(found.submodule_search_locations[0])
    inside = (path.relative_to(root) for path in root.rglob("*.py"))
    names = [f"{library}/{path.as_posix()}" for path in inside if not SKIPPED_FOLDERS.intersection(path.parts)]
    paths = [(name, root.parent / name) for name in sorted(names, key=_hash)]
    return [(name, path) for name, path in paths if path.stat().st_size <= LARGEST]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _sentences(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a source may hold an invalid escape, which is none of ours
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # unreadable, of another Python, or with null bytes
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield from sentences_of(docstring)


def sentences_of(docstring: str) -> list[str]:
    """The sentences of a docstring, with what gives its library away replaced.

    Example:
        >>> sentences_of("Return the sorted values of a numpy array along one axis. See also: sort.")
        ['Return the sorted values of a the library array along one axis.']
    """
    text = EXAMPLES.split(inspect.cleandoc(docstring))[0]
    found = []
    for paragraph in _paragraphs(text):
        if not any(mark in paragraph for mark in (">>>", "::", "---", "===", "|", "\\", "$")):
            plain = ROLE.sub(r"\1", paragraph).replace("`", "").replace("*", "")
            found += [GIVES_AWAY.sub("the library", one) for one in SENTENCE_END.split(plain) if _is_prose(one)]
    return found


def _paragraphs(text: str) -> Iterator[str]:
    """Consecutive lines of the same indentation, joined: a parameter's description stands apart from its name."""
    lines: list[str] = []
    indent = -1
    for line in [*text.splitlines(), ""]:
        here = len(line) - len(line.lstrip())
        if lines and (not line.strip() or here != indent):
            yield " ".join(lines)
            lines = []
        if line.strip():
            lines.append(line.strip())
            indent = here


def _is_prose(sentence: str) -> bool:
    pieces = sentence.split()
    words = [piece for piece in pieces if WORD.fullmatch(piece.strip("(),.;:!?\"'"))]
    starts_and_ends = sentence[:1].isupper() and sentence.endswith((".", "!", "?"))
    return starts_and_ends and 6 <= len(pieces) <= 24 and len(words) >= 0.75 * len(pieces)


class _Seen:
    """Sentences already taken, to tell near-duplicates."""

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self.sizes: list[int] = []
        self.holders: dict[tuple[str, ...], list[int]] = defaultdict(list)  # of each shingle

    def add(self, sentence: str) -> bool:
        """Whether it is new; then it is remembered."""
        words = re.sub(r"[\W\d_]+", " ", sentence.lower()).split()
        text = " ".join(words)
        shingles = {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
        shared = Counter(holder for shingle in shingles for holder in self.holders[shingle])
        near = any(both >= NEAR * (len(shingles) + self.sizes[other] - both) for other, both in shared.items())
        if text in self.texts or near:
            return False
        self.texts.add(text)
        for shingle in shingles:
            self.holders[shingle].append(len(self.sizes))
        self.sizes.append(len(shingles))
        return True
