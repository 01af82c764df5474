"""The embedded corpus: docstrings of Python's standard library and sentences of the grammar.

The library's files are parsed, never imported. Parts that some distributions split off or leave out are
skipped, so that the same Python version gives the same text everywhere.
"""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.embedded import grammar

SPAN_WORDS = 128
# Validation text: every so many-th span of the shuffled corpus.
_VALID_EVERY = 25

_SKIPPED_FOLDERS = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "__phello__",
    "lib-dynload",
    # packaged apart, or not at all, by some distributions
    "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "pydoc_data",
}  # fmt: skip
_SKIPPED_FILES = re.compile(r"^(_sysconfigdata.*|sitecustomize|usercustomize|turtle|antigravity|this)\.py$")
_PROMPT = re.compile(r"^\s*(>>>|\.\.\. |\$ )")
_RULER = re.compile(r"^\s*[-=~^*#_+|.]{3,}\s*$")
_MARKUP = re.compile(r":\w+:`([^`]*)`|`+([^`]*)`+|\*\*?([^\s*][^*]*)\*\*?")
_WORDS_AND_MARKS = re.compile(r"\w+(?:[-'_.]\w+)*|[^\w\s]")
_PROSE_MARKS = frozenset(".,;:!?'\"()-")


def library_root() -> Path:
    """The folder of the standard library's source files."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files(root: Path) -> list[Path]:
    """The library's source files that give text, in an order that does not depend on the disk."""
    files = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if _SKIPPED_FOLDERS.isdisjoint(parts[:-1]) and not _SKIPPED_FILES.match(parts[-1]):
            files.append(path)
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in the order of the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=True)
            if text:
                yield text


def clean_docstring(text: str) -> str:
    """Prose only, on one line: examples, indented listings, rulers and paragraphs of mostly symbols go."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        if any(_PROMPT.match(line) for line in lines):
            continue
        lines = [line for line in lines if not line.startswith((" ", "\t")) and not _RULER.match(line)]
        flat = _MARKUP.sub(lambda match: next(group for group in match.groups() if group is not None), " ".join(lines))
        marks = _WORDS_AND_MARKS.findall(flat)
        if len(marks) < 6 or not flat.isascii() or sum(_is_prose(mark) for mark in marks) < 0.9 * len(marks):
            continue
        kept.append(" ".join(marks))
    return " ".join(kept)


def _is_prose(mark: str) -> bool:
    return mark.isalpha() or mark in _PROSE_MARKS or (mark.replace("-", "").replace("'", "").isalpha())


def library_prose(root: Path, limit_bytes: int) -> Iterator[str]:
    """Cleaned docstrings of the library, each once, up to about `limit_bytes` of text."""
    seen: set[str] = set()
    used = 0
    for path in library_files(root):
        try:
            source = path.read_text(encoding="utf-8")
            found = list(docstrings(source))
        except (UnicodeDecodeError, SyntaxError):
            continue  # a file in another encoding, or a template: its text is no loss
        for text in map(clean_docstring, found):
            if text and text not in seen:
                seen.add(text)
                used += len(text) + 1
                if used > limit_bytes:
                    return
                yield text


def grammar_prose(seed: int, limit_bytes: int) -> Iterator[str]:
    """Passages of the grammar, about `limit_bytes` of them; drawn apart from the rows of the tasks."""
    rng = random.Random(f"{seed}:corpus")
    used = 0
    while used < limit_bytes:
        text = grammar.passage(rng)
        used += len(text) + 1
        yield text


def cut(texts: Iterable[str], span_words: int = SPAN_WORDS) -> Iterator[str]:
    """Spans of about `span_words` words: texts are joined until they reach it, and a longer text is split."""
    words: list[str] = []
    for text in texts:
        words.extend(text.split())
        while len(words) >= span_words:
            yield " ".join(words[:span_words])
            words = words[span_words:]
    if len(words) > 1:
        yield " ".join(words)


def write_corpus(
    folder: Path, seed: int, library_bytes: int, grammar_bytes: int, root: Path | None = None
) -> tuple[int, int]:
    """Writes train.txt and valid.txt, one span per line, shuffled. Returns the numbers of their lines."""
    spans = list(cut(library_prose(root or library_root(), library_bytes)))
    spans.extend(cut(grammar_prose(seed, grammar_bytes)))
    random.Random(f"{seed}:order").shuffle(spans)
    train = [span for number, span in enumerate(spans) if number % _VALID_EVERY]
    valid = spans[::_VALID_EVERY]
    folder.mkdir(parents=True)
    for name, lines in (("train", train), ("valid", valid)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(train), len(valid)
