"""Requests and answers as JSON, and how a mistake in a request is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serving.predictor import ServedTask

#: Mistakes of one request that are told.
_MOST_PROBLEMS = 20


class PredictRequest(BaseModel):
    """Rows of one task."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: str | None = Field(None, description="Name of the task; may be left out where the server has only one.")
    rows: list[dict[str, str]] = Field(description="Column -> text, with all columns of the task and no others.")


class WordTag(BaseModel):
    """What the model says of one word."""

    label: str
    score: float = Field(description="The label's probability.")


class RowPrediction(BaseModel):
    """What the model says of one row."""

    label: str | None = Field(description="The most probable class; null in regression and for tagged words.")
    scores: dict[str, float] = Field(description='Class -> probability; {"score": value} in regression.')
    tags: list[WordTag] | None = Field(None, description="Of every word, where words are tagged; else null.")
    ratio: int = Field(description="The compression ratio that served the row; 1 is the model without plugins.")
    truncated: bool = Field(description="Whether text was cut off, as the row had too many tokens.")


class PredictAnswer(BaseModel):
    """Predictions in the order of the rows."""

    task: str
    predictions: list[RowPrediction]
    queue_ms: float = Field(description="Time that the request waited, in milliseconds.")
    compute_ms: float = Field(description="The model's time for the batches that its rows were in, in milliseconds.")


class TaskDescription(BaseModel):
    """A task of the server."""

    kind: str
    columns: list[str]
    labels: list[str]
    ratios: list[int]
    max_length: int = Field(description="Most tokens of a row, prompt included; longer texts are cut.")


class ModelDescription(BaseModel):
    """What is served, and how."""

    edits: list[dict[str, Any]]
    tasks: dict[str, TaskDescription]
    ratio: int = Field(description="The ratio in use now.")
    ratio_mode: str = Field(description="auto, or fixed.")
    latency_target_ms: float | None
    precision: str = Field(description="fp32 or bf16: in which the model computes.")
    precision_why: str
    limits: dict[str, int]


class BadRequest(Exception):
    """A request that cannot be answered.

    Attributes:
        problems: as FastAPI's: place (`loc`), text (`msg`) and kind (`type`) of each.
    """

    def __init__(self, problems: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(f"{len(problems)} problem(s)")
        self.problems = problems


def problem(text: str, kind: str, *place: str | int) -> dict[str, Any]:
    """One entry of `BadRequest.problems`; the place is one in the body."""
    return {"type": kind, "loc": ["body", *place], "msg": text}


def told(problems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first problems without what the client sent, which may be long or no valid text."""
    return [
        {
            "type": one["type"],
            "loc": [_plain(part) if isinstance(part, str) else part for part in one["loc"]],
            "msg": _plain(one["msg"]),
        }
        for one in problems[:_MOST_PROBLEMS]
    ]


def check(
    request: PredictRequest, tasks: Mapping[str, ServedTask], max_rows: int, max_chars: int
) -> tuple[str, list[list[str]]]:
    """The task's name and the texts of the rows in the order of its columns.

    Raises:
        BadRequest: with every mistake.
    """
    name = request.task if request.task is not None or len(tasks) > 1 else next(iter(tasks))
    if name is None or name not in tasks:
        what = "several tasks are served, name one" if name is None else "unknown task"
        raise BadRequest([problem(f"{what}: {', '.join(tasks)}", "task", "task")])
    if not request.rows:
        raise BadRequest([problem("at least one row is needed", "too_short", "rows")])
    if len(request.rows) > max_rows:
        text = f"at most {max_rows} rows a request, found {len(request.rows)}"
        raise BadRequest([problem(text, "too_long", "rows")])
    columns = tasks[name].task.columns
    problems = [one for i, row in enumerate(request.rows) for one in _row_problems(i, row, columns, max_chars)]
    if problems:
        raise BadRequest(problems)
    return name, [[row[column] for column in columns] for row in request.rows]


def _row_problems(index: int, row: Mapping[str, str], columns: Sequence[str], max_chars: int) -> list[dict[str, Any]]:
    found = [problem("this column is missing", "missing", "rows", index, name) for name in columns if name not in row]
    for name, text in row.items():
        if name not in columns:
            found.append(
                problem(f"no such column, expected {', '.join(columns)}", "extra_forbidden", "rows", index, name)
            )
        elif not _is_unicode(text):
            found.append(problem("no valid Unicode text", "string_unicode", "rows", index, name))
        elif len(text) > max_chars:
            long = f"at most {max_chars} characters, found {len(text)}"
            found.append(problem(long, "string_too_long", "rows", index, name))
    return found


def _is_unicode(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which JSON's escapes can make."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _plain(text: str) -> str:
    """Text that can be sent: no half of a surrogate pair, and not too long."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:200]
