"""Requests and answers as JSON, and how a mistake in a request is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from serving.predictor import ServedTask

#: Mistakes of one request that are told.
_MOST_PROBLEMS = 20
#: Words of a row that are tagged, at least; more where the model takes more tokens.
_MOST_WORDS = 512
#: What begins or divides values in JSON; a body has about as many values as it has of these.
_MARKS = (b",", b":", b"[", b"{")
#: Bytes between strings that are looked at together.
_STEP = 2048
#: The rest of a string, escapes and all; it ends with the body where nothing else ends it.
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


class PredictRequest(BaseModel):
    """Rows of one task."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: str | None = Field(None, description="Name of the task; may be left out where the server has only one.")
    rows: list[dict[str, str]] = Field(description="Column -> text, with all columns of the task and no others.")


class WordTag(BaseModel):
    """What the model says of one word."""

    label: str
    score: FiniteFloat = Field(description="The label's probability.")


class RowPrediction(BaseModel):
    """What the model says of one row."""

    label: str | None = Field(description="The most probable class; null in regression and for tagged words.")
    scores: dict[str, FiniteFloat] = Field(description='Class -> probability; {"score": value} in regression.')
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


class Problem(BaseModel):
    """A mistake in a request."""

    type: str
    loc: list[str | int] = Field(description="Its place, from the body inwards.")
    msg: str


class Problems(BaseModel):
    """Why a request cannot be answered."""

    detail: list[Problem]


class Refusal(BaseModel):
    """Why a request is not answered."""

    detail: str


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


def read_request(body: bytes, max_rows: int, columns: int) -> PredictRequest:
    """The request in a body; one with far too many values is refused before any of them is read.

    Args:
        columns: most columns of a task.

    Raises:
        BadRequest: it is no request.
    """
    most = 64 + 2 * max_rows * (2 + 4 * columns)  # twice what the largest request has
    if _has_more_values(body, most):
        raise BadRequest([problem(f"too many values for {max_rows} rows of {columns} columns", "too_long")])
    try:
        return PredictRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise BadRequest([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


def _has_more_values(body: bytes, most: int) -> bool:
    """Whether JSON has more values and marks than so many; reads no further than it needs."""
    if len(body) <= most:
        return False
    found = at = 0
    while at < len(body) and found <= most:
        end = at + _STEP
        begin = body.find(b'"', at, end)
        found += sum(body.count(mark, at, begin if begin >= 0 else end) for mark in _MARKS)
        if begin >= 0:
            found += 1
            end = _end_of_string(body, begin + 1)
        at = end
    return found > most


def _end_of_string(body: bytes, begin: int) -> int:
    end = body.find(b'"', begin)
    if end >= 0 and body[end - 1 : end] != b"\\":
        return end + 1
    rest = _REST_OF_STRING.match(body, begin)
    return rest.end() if rest else len(body)


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
    if not problems and tasks[name].task.kind == "token_classification":
        problems = _too_many_words(request.rows, columns[0], max(_MOST_WORDS, 4 * tasks[name].max_length))
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
        elif len(text) > max_chars:
            long = f"at most {max_chars} characters, found {len(text)}"
            found.append(problem(long, "string_too_long", "rows", index, name))
    return found


def _too_many_words(rows: Sequence[Mapping[str, str]], column: str, most: int) -> list[dict[str, Any]]:
    """Rows of more words than so many: each word is a tag in the answer, also where the model does not see it."""
    counts = ((index, len(row[column].split())) for index, row in enumerate(rows))
    return [
        problem(f"at most {most} words, found {count}", "too_long", "rows", index, column)
        for index, count in counts
        if count > most
    ]


def _plain(text: str) -> str:
    """Text that is not too long."""
    return text[:200]
