"""Text corpora for pre-training data: what is read of them, in which formats, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataset.errors import DataError
from dataset.text_cleanup import split_sentences
from utils.pregenerate.corpus import Corpus, TextRules, find_text_files, index_corpus

PROSE = "This is a line of quite ordinary English prose, which is long enough to be kept"


def corpus_of(path: Path, tmp_path: Path, rules: TextRules | None = None) -> Corpus:
    """The indexed corpus at `path`."""
    index = tmp_path / f"index-{path.name}"
    index.mkdir()
    return index_corpus(find_text_files(path), index, rules or TextRules())


def documents_of(corpus: Corpus) -> list[list[str]]:
    """All segments of all documents."""
    return [list(corpus.segments(document)) for document in range(len(corpus))]


def test_lines_that_are_no_prose_are_left_out(tmp_path: Path) -> None:
    """The original tokenises them all the same; `keep` does so, `off` changes nothing at all."""
    path = tmp_path / "corpus.txt"
    path.write_text(f"Title\n{PROSE}....,,\n| a | row | of | a | table\n\n{PROSE}\n\nHeading\n", encoding="utf-8")
    found = {rule: documents_of(corpus_of(path, tmp_path / rule, TextRules(rule))) for rule in _made(tmp_path)}
    assert found["drop"] == [[f"{PROSE}...,"], [PROSE]]
    assert found["keep"] == [["Title", f"{PROSE}...,", "| a | row | of | a | table"], [PROSE], ["Heading"]]
    assert found["off"] == [["Title", f"{PROSE}....,,", "| a | row | of | a | table"], [PROSE], ["Heading"]]


def _made(tmp_path: Path) -> Iterator[Any]:
    for rule in ("drop", "keep", "off"):
        (tmp_path / rule).mkdir()
        yield rule


def write_wiki(folder: Path) -> None:
    """The same articles in both forms of wikiextractor's output, and an empty one; written as version 3.1.0 does."""
    articles = [
        ("12", 'AT&amp;T "Labs"', f"{PROSE} &amp; more.\nHistory.\n{PROSE}, twice."),
        ("13", "Empty", ""),
        ("14", "Second", f"{PROSE}: the second."),
    ]
    for form in ("doc", "json"):
        (folder / form / "AA").mkdir(parents=True)
        (folder / form / "AB").mkdir(parents=True)
        for place, part in (("AA", articles[:1]), ("AB", articles[1:])):
            with (folder / form / place / "wiki_00").open("w", encoding="utf-8") as target:
                for number, title, text in part:
                    if form == "json":
                        record = {"id": number, "revid": "1", "url": "u", "title": title, "text": text}
                        target.write(json.dumps(record, ensure_ascii=False) + "\n")
                    else:
                        target.write(f'<doc id="{number}" url="u" title="{title}">\n{title}\n\n{text}\n\n</doc>\n')


def test_both_forms_of_wikiextractors_output_are_read(tmp_path: Path) -> None:
    """An article is a document whatever blank lines are in it; entities become characters, titles and tags go."""
    write_wiki(tmp_path)
    expected = [[f"{PROSE} & more.", "History.", f"{PROSE}, twice."], [f"{PROSE}: the second."]]
    for form in ("doc", "json"):
        assert documents_of(corpus_of(tmp_path / form, tmp_path, TextRules("keep"))) == expected, form


def test_documents_are_found_behind_any_line_ends(tmp_path: Path) -> None:
    """A byte-order mark, CRLF, spaces in blank lines and a missing last line end change nothing."""
    path = tmp_path / "corpus.txt"
    path.write_bytes(f"\ufeff{PROSE}\r\n \t\r\n\r\n{PROSE} ü\r\n{PROSE}".encode())
    assert documents_of(corpus_of(path, tmp_path)) == [[PROSE], [f"{PROSE} ü", PROSE]]


def test_long_documents_count_as_several(tmp_path: Path) -> None:
    """So a file without a blank line needs no more memory than another, and can be paired with itself."""
    path = tmp_path / "corpus.txt"
    path.write_text(f"{PROSE}\n" * 3000, encoding="utf-8")
    documents = documents_of(corpus_of(path, tmp_path))
    assert len(documents) == 4 and sum(map(len, documents)) == 3000


def test_paragraphs_are_cut_into_sentences_on_request(tmp_path: Path) -> None:
    """At full stops before a capital, not behind initials and titles."""
    sentences = [
        "Mr. J. Smith came (at 5 p.m.) to the U.S. Army.",
        'He said "Go!"',
        "Nobody did. so there.",
        "It's 3.5 or 4.",
    ]
    assert split_sentences(" ".join(sentences)) == sentences
    path = tmp_path / "corpus.txt"
    path.write_text(f"{PROSE}. {PROSE}.\n", encoding="utf-8")
    assert documents_of(corpus_of(path, tmp_path, TextRules(split_sentences=True))) == [[f"{PROSE}."] * 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no usable line in 1 file"),
        (b"1 2 3\n\n4 5\n", "2 lines are no English prose; --line_filter off"),
        (b"BZh91AY&SY", "this file is packed .* unpack it first"),
        (PROSE.encode("utf-16"), "this file is UTF-16, and UTF-8 is expected"),
        (PROSE.encode() + b"\r\r" + PROSE.encode() + b"\r", "its lines end in CR alone"),
        (b"text\0text", "zero bytes"),
        (PROSE.encode() + b"\n\n\xff\xfe\n", r"c:3: this line is not UTF-8"),
        (b'{"id": "1", "text": "a"}\n{"id": "2", "te', r"c:2: this line is no article"),
        (b'{"id": "1", "text": "a"}\n{"id": "2"}\n', r'c:2: .*expected a JSON object with a "text"'),
    ],
    ids=["empty", "no prose", "bzip2", "utf-16", "cr", "binary", "latin-1", "cut", "no text"],
)
def test_text_that_cannot_be_used_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    """File, line, what was found."""
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(DataError, match=message):
        corpus_of(tmp_path / "c", tmp_path)


def test_a_corpus_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A wrong path, and a directory with nothing in it."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=r"--train_corpus .*expected a text file or a directory"):
            find_text_files(path)
