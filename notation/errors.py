"""The one error of what is written wrongly."""


class NotationError(ValueError):
    """A word is no scale, path or model type; the text is one sentence for the user."""
