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
    """The error falls, no ratio is dearer than the one before, and without plugins the dense model is back."""
    text = said("plugins", monkeypatch, capsys)
    first, *_, last = (float(found) for found in re.findall(r"encoder ([\d.]+) at k = 2", text))
    assert last < first
    macs = [float(found) for found in re.findall(r"k = \d: ([\d.]+) M", text)]
    assert len(macs) == 3 and macs[0] > macs[1] > macs[2]
    assert (
        float(re.findall(r"at k = 4 differ by ([\d.e+-]+)", text)[0]) < 1e-5
        and "the dense T5 is back bit for bit" in text
    )


def test_decomposition(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer parameters, an error that distillation takes away, the same logits by another way and after loading."""
    text = said("decomposition", monkeypatch, capsys)
    before, after = (int(found.replace(",", "")) for found in re.findall(r"[\d,]{4,}", text)[:2])
    assert after < before / 4
    first, *_, last = (float(found) for found in re.findall(r"the teacher's by ([\d.]+)", text))
    assert last < 0.7 * first
    differences = [float(found) for found in re.findall(r"logits differ by ([\d.e+-]+)", text)]
    assert len(differences) == 2 and max(differences) < 1e-4


def test_composition(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Three edits in one directory, each of which makes it cheaper, with the same logits at both ratios."""
    text = said("composition", monkeypatch, capsys)
    assert "edits: pruning + plugin + quantization" in text and text.count("after loading") == 2
    assert all(float(found) < 1e-5 for found in re.findall(r"logits differ by ([\d.e+-]+)", text))
    macs = [float(found) for found in re.findall(r"([\d.]+) M multiply", text)]
    assert len(macs) == 3 and macs[0] > macs[1] > macs[2]
