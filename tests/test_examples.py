"""The examples of docs/examples run as they stand there, and say what their text promises."""

from __future__ import annotations

import re
import runpy
import sys

import pytest

pytestmark = pytest.mark.usefixtures("single_thread")


def said(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What an example prints."""
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_module(f"docs.examples.{name}", run_name="__main__")
    return capsys.readouterr().out


def test_plugins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The plugins' error falls, the saved model is the same, and taking them off gives the dense one."""
    text = said("plugins", monkeypatch, capsys)
    first, *_, last = (float(found) for found in re.findall(r"encoder ([\d.]+) at k = 2", text))
    assert last < first
    assert "loaded again: equal logits at k = 4" in text and "the dense T5 is back bit for bit" in text


def test_decomposition(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer parameters, and the same logits by another way and after loading."""
    text = said("decomposition", monkeypatch, capsys)
    before, after = (int(found.replace(",", "")) for found in re.findall(r"[\d,]{4,}", text)[:2])
    assert after < before / 4
    assert (
        all(float(found) < 1e-4 for found in re.findall(r"differ by ([\d.e+-]+)", text)) and text.count("differ") == 2
    )


def test_composition(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Three edits in one directory, with equal logits at both ratios."""
    text = said("composition", monkeypatch, capsys)
    assert "edits: pruning + plugin + quantization" in text and text.count("equal logits") == 2
