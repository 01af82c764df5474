"""Inputs that nobody would write: damaged files, JSON with the wrong things in the right places."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.errors import DataError
from model.errors import ModelError
from utils.errors import UserError

#: What a reader may answer to any input, besides a result.
CLEAN = (DataError, ModelError, UserError)
#: Few inputs, always the same, in every run of the tests; many, always new, in the slow ones.
FEW = 250
inputs = pytest.mark.parametrize("count", [FEW, pytest.param(10_000, marks=pytest.mark.slow)])
#: Models are built for each of these inputs.
costly_inputs = pytest.mark.parametrize("count", [30, pytest.param(10_000, marks=pytest.mark.slow)])
#: A reader that has not answered after this time hangs: the inputs are a few kilobytes.
_HANGS_AFTER_S = 120

_NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 4, 2**31, 2**63, 10**30, 10**400, 0.5, 1e400, -1e400, float("nan")])
_TEXTS = st.sampled_from(["", "0", "a", "é", "\ud800", "\x00", "true", "a" * 300, "1" * 5000]) | st.text(max_size=5)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _NUMBERS | _TEXTS
#: Any JSON value.
json_values = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)
_DEEP = st.sampled_from([40, 200, 900, 960, 2000, 100_000])
_WRONG_TEXTS = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda depth, ends: b"[" * depth + b"]" * depth * ends, _DEEP, st.integers(0, 1)),
    st.builds(lambda depth, ends: b'{"a":' * depth + b"0" + b"}" * depth * ends, _DEEP, st.integers(0, 1)),
    st.sampled_from([b"", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"9" * 5000, b"{}" + b" " * 9, b"null"]),
)


def fuzz(count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], object]) -> None:
    """Gives `check` inputs of a strategy: it may return, or raise one of `CLEAN`, and nothing else."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count <= FEW,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: Any) -> None:
        with ends():
            try:
                check(value)
            except CLEAN as error:
                assert str(error).strip(), "an error without a word"

    run()


@contextmanager
def ends() -> Iterator[None]:
    """What does not come to an end inside is a failure."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer within {_HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def altered(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document of which one to three parts are gone, doubled or something else."""
    value = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        _alter(draw, value)
    return value[0] if value else None


def _alter(draw: st.DrawFn, root: list[Any]) -> None:
    """Changes a part of `root[0]`, at any depth."""
    parent: Any = root
    key: Any = 0
    while parent and isinstance(child := parent[key], dict | list) and child and draw(st.integers(0, 4)):
        parent, key = child, draw(st.sampled_from(sorted(child) if isinstance(child, dict) else range(len(child))))
    if not root:
        return
    how = draw(st.sampled_from(["other", "other", "gone", "wrapped", "more"]))
    if how == "gone" and parent is not root:
        del parent[key]
    elif how == "wrapped":
        parent[key] = [parent[key]]
    elif how == "more" and isinstance(parent, list) and parent is not root:
        parent.append(parent[key])
    elif how == "more" and isinstance(parent, dict):
        parent[draw(_TEXTS)] = draw(json_values)
    else:
        parent[key] = draw(json_values)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are cut off, others or doubled."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(found))), draw(st.integers(0, 9))
        how = draw(st.sampled_from(["cut", "other", "more"]))
        if how == "cut":
            del found[at:]
        elif how == "other":
            found[at : at + length] = draw(st.binary(max_size=9))
        else:
            found[at:at] = bytes(found[at : at + length])
    return bytes(found)


def json_files(document: Any) -> st.SearchStrategy[bytes]:
    """The bytes of a JSON file that should hold something like `document`."""
    whole = json.dumps(document).encode()
    changed = altered(document).map(lambda value: json.dumps(value).encode())
    return st.one_of(changed, changed, json_values.map(lambda v: json.dumps(v).encode()), damaged(whole), _WRONG_TEXTS)


def text_files(*pieces: str) -> st.SearchStrategy[bytes]:
    """Bytes put together of `pieces`, of what separates lines and columns, and of anything else."""
    usual = [piece.encode() for piece in pieces]
    separators = [b"\t", b"\t", b"\n", b"\n", b"\n\n", b"\r\n", b" "]
    odd = [b"\r", b"\x00", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", "\x85\u2028\u3000\x1c".encode(), b'"', b"9" * 400]
    one = st.sampled_from(usual + separators) | st.sampled_from(odd) | st.binary(max_size=4)
    return st.lists(one, max_size=30).map(b"".join)


def written(path: Path, content: bytes) -> Path:
    """`path`, which holds `content` now."""
    path.write_bytes(content)
    return path
