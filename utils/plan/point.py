"""What a plan compares: where a model lies, and at which setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from notation import Axis, Step
from utils.plan.recorded import Metric

CONFIG = "config.json"


@dataclass(frozen=True)
class Source:
    """Where weights lie.

    Attributes:
        label: short name for people.
        directory: the folder with config.json.
        plugins: a folder with plugin files that go onto it, or None.
        plugin_task: whose plugins in a bank of several tasks; "" where there is one.
        task: the task of the run that made it, "" where unknown.
    """

    label: str
    directory: Path
    plugins: Path | None = None
    plugin_task: str = ""
    task: str = ""

    @property
    def files(self) -> list[Path]:
        """Config and weight files: what the model is made of."""
        folders = [self.directory, *([] if self.plugins is None else [self.plugins])]
        patterns = (CONFIG, "*.safetensors", "pytorch_model*.bin", "plugin*.json")
        return sorted({file for folder in folders for pattern in patterns for file in folder.glob(pattern)})


@dataclass(frozen=True)
class Point:
    """One model that could be used.

    Attributes:
        axis, value: the setting of the source, as `notation.Step` has it: a fraction that is gone, a number of
            layers, a ratio of plugins; "" and 0 for as it is saved.
        is_whole: nothing is taken away: what `x` in a budget can count from.
        metric: on the development set; None where it is unknown.
        is_saved: the model lies in its directory as this point.
    """

    source: Source
    axis: Axis | Literal[""]
    value: float
    is_whole: bool
    metric: Metric | None
    is_saved: bool = True

    @property
    def is_cut(self) -> bool:
        """Whether the point is a smaller model, which has to be made of the saved one and has not learnt since."""
        return self.axis not in ("", "ratio") and not self.is_saved

    @property
    def step(self) -> str:
        """The setting as schedules write it: `50S`, `4K`; "" for as it is saved."""
        return Step(self.axis, self.value).text if self.axis else ""

    @property
    def name(self) -> str:
        """Unique among the points of a plan whose sources have different labels."""
        if not self.axis:
            return self.source.label
        setting = f"k={self.value:g}" if self.axis == "ratio" else self.step
        return f"{self.source.label} {setting}"
