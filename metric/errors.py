"""What this package raises for input that cannot be scored or measured."""


class MetricError(ValueError):
    """Input that has no meaningful score, said in one sentence: what was found and what was expected."""
