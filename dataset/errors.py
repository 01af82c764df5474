"""The one error type of this package, and how its messages show what was found."""

#: Most characters of a user's text that a message shows.
_MOST_SHOWN = 80


class DataError(ValueError):
    """A problem in the user's data or settings; the message says where, what was found, what was expected."""


def shown(found: object) -> str:
    """What was found, as a message shows it: text in quotes, anything else as it is written, at most 80 characters."""
    text = repr(found)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 4]} ..."


def counted(number: int, noun: str) -> str:
    """`1 column`, `2 columns`."""
    return f"{number:,} {noun}" + "s" * (number != 1)
