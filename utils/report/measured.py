"""What an evaluation says about one model: metrics, costs, and where they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Above this, nothing was measured.
_LARGEST = 1e18


class Circumstances(NamedTuple):
    """When, where and how a latency was measured; "" is what the file does not say."""

    at: str = ""
    machine: str = ""
    device: str = ""
    precision: str = ""
    threads: str = ""

    @property
    def setting(self) -> str:
        """All but the time."""
        threads = f"{self.threads} thread(s)" if self.threads else ""
        device = "" if self.device in ("", "cpu") else self.device
        return ", ".join(filter(None, (device or self.machine, self.precision, threads))) or "not recorded"


@dataclass(frozen=True)
class Measured:
    """What an evaluation says about one model; None is what it does not say.

    Attributes:
        ratio: of the plugins in use; 1 without them, None where the model has none to switch.
        metrics: fractions, by name.
        macs, encoder_macs: multiply-accumulates per example at its real length.
        latency_shape: rows and tokens of the timed forward.
        circumstances: of the latency.
        is_dense: nothing in it is compressed; None: not said.
    """

    ratio: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    macs: float | None = None
    encoder_macs: float | None = None
    latency_ms: float | None = None
    latency_shape: tuple[int, int] | None = None
    circumstances: Circumstances | None = None
    num_params: float | None = None
    encoder_params: float | None = None
    delta_bytes: float | None = None
    memory_bytes: float | None = None
    is_dense: bool | None = None


def shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says once for all of its ratios."""
    return {"measured": values["measured"]} if "measured" in values else {}


def merged(models: Sequence[Measured]) -> Measured:
    """One model measured several times: what an earlier one lacks, a later one gives; metrics are of one of them."""
    values: dict[str, Any] = {}
    for model in models:
        for name, value in vars(model).items():
            if values.get(name) in (None, {}):
                values[name] = value
    return Measured(**values)


def measured_ratios(rows: Sequence[Any]) -> list[Measured]:
    """The rows of `train_t5.py --mode valid`: a T5 at several ratios of its plugins, 1 being without them."""
    known = [row for row in rows if isinstance(row, Mapping) and whole(row.get("ratio")) is not None]
    models = [measured_values(row, row, row["ratio"]) for row in known]
    return sorted(models, key=lambda model: model.ratio or 0)


def measured_model(found: Mapping[str, Any]) -> Measured:
    """What `task_distill.py --do_eval` wrote about a model; of one with plugins, as it is saved."""
    return measured_values(found, found.get("metrics", {}), None)


def measured_values(found: Mapping[str, Any], metrics: Any, ratio: int | None) -> Measured:
    """What the numbers of an evaluation say about a model, or about one at a ratio of its plugins."""
    rows, tokens = whole(found.get("latency_batch")), whole(found.get("latency_length"))
    names = ("macs", "encoder_macs", "latency_ms", "num_params", "encoder_params")
    costs = {name: number(found.get(name)) for name in names}
    edits = found.get("edits")
    known = found.get("measured")
    where = (
        {name: str(known[name]) for name in Circumstances._fields if name in known}
        if isinstance(known, Mapping)
        else {}
    )
    return Measured(
        ratio=ratio,
        metrics={name: value for name, value in numbers(metrics).items() if name not in _NO_METRICS},
        latency_shape=(rows, tokens) if rows is not None and tokens is not None else None,
        circumstances=Circumstances(**where) if costs["latency_ms"] is not None else None,
        delta_bytes=number(found.get("delta_bytes")) if ratio != 1 else None,
        memory_bytes=number(found.get("peak_memory_bytes")),
        is_dense=ratio == 1 if ratio is not None else edits == "dense" if isinstance(edits, str) else None,
        **costs,
    )


#: Numbers in a row of ratios that are no metrics.
_NO_METRICS = {
    "ratio",
    "macs",
    "encoder_macs",
    "latency_ms",
    "latency_p95_ms",
    "latency_batch",
    "latency_length",
    "peak_memory_bytes",
    "num_params",
    "plugin_params",
    "plugin_share",
    "delta_bytes",
    "measured",
}


def number(value: Any) -> float | None:
    """A number that can have been measured; JSON's NaN and what is none count as not measured."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < _LARGEST else None


def whole(value: Any) -> int | None:
    """A whole number that can have been measured."""
    return value if isinstance(value, int) and number(value) is not None else None


def numbers(values: Any) -> dict[str, float]:
    """Those of the values that are numbers."""
    if not isinstance(values, Mapping):
        return {}
    return {str(name): one for name, value in values.items() if (one := number(value)) is not None}
