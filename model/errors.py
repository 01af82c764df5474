"""The one error that `model/` raises for a mistake of its user."""


class ModelError(ValueError):
    """A model, an edit or a weight file is not what was asked for; the text is one sentence for the user."""
