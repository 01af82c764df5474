"""Which lines of a corpus are prose."""

from __future__ import annotations

import pytest

from dataset.text_cleanup import is_valid


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a" * 49, False),
        ("a" * 50, True),
        ("a" * 1_000_000, True),
        ("a" * 1_000_001, False),
        ("a" * 49 + " " * 21, False),
        ("a" * 50 + " " * 21, True),
        ("a" * 50 + "1" * 21, True),
        ("a" * 70 + "1" * 30, True),
        ("a" * 69 + "1" * 31, False),
        ("é" * 31 + "a" * 69, False),
        ("a" * 95 + "/" * 5, True),
        ("a" * 94 + "/" * 6, False),
        ("a" * 95 + "\\" * 5, True),
        ("a" * 94 + "\\" * 6, False),
        ("a" * 95 + "|" * 5, True),
        ("a" * 94 + "|" * 6, False),
        ("a" * 85 + "/" * 5 + "|" * 5 + "\\" * 5, True),
        ("|" + "a" * 99, False),
        ("a" * 99 + "|", True),
        ("In 1984 the team won twelve of its games, lost nine and drew the rest of them all.", True),
    ],
)
def test_prose_is_told_by_its_letters_and_marks(line: str, expected: bool) -> None:
    """50 to a million characters, 50 letters that are 0.7 of them, at most 0.05 of each mark, no bar in front."""
    assert is_valid(line) is expected
