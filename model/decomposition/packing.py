"""Where `model.packing` stood when factorised matrices alone used it."""

from model.packing import PackedWeight, Weight, usable_for

__all__ = ["PackedWeight", "Weight", "usable_for"]
