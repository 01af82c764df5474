"""The one error type of this package."""


class DataError(ValueError):
    """A problem in the user's data or settings; the message says where, what was found, what was expected."""
