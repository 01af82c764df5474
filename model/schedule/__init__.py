"""Schedules of teacher assistants over any scale axis; nothing here knows how a model is compressed.

How scales are written is in `notation`.
"""

from model.schedule.axis import ScaleAxis, find_scale
from model.schedule.sandwich import Sandwich
from model.schedule.tradeoff import Choice, choose, tradeoff

__all__ = ["Choice", "Sandwich", "ScaleAxis", "choose", "find_scale", "tradeoff"]
