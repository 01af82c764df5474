"""Schedules of teacher assistants over any scale axis; nothing here knows how a model is compressed."""

from model.schedule.axis import ScaleAxis, find_scale
from model.schedule.paths import Step, parse_grid, parse_path, parse_paths, parse_step
from model.schedule.sandwich import Sandwich
from model.schedule.tradeoff import Choice, choose, tradeoff
from model.schedule.units import UNITS, Axis, Unit

__all__ = [
    "UNITS",
    "Axis",
    "Choice",
    "Sandwich",
    "ScaleAxis",
    "Step",
    "Unit",
    "choose",
    "find_scale",
    "parse_grid",
    "parse_path",
    "parse_paths",
    "parse_step",
    "tradeoff",
]
