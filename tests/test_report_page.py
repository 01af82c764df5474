"""The report's page in a real browser: its script runs, filters, sorts and tells values; without Chromium, skipped."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import helpers_report as made
from utils.report.__main__ import parse, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

#: Stands before the page's own script, drives the page once it is there, and leaves what it saw in the document.
DRIVER = """
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push(`refused: ${event.violatedDirective}`));
addEventListener("DOMContentLoaded", () => {
  const seen = { ready: document.documentElement.dataset.ready };
  const names = () => [...document.querySelectorAll("#runs tbody tr")].filter((row) => row.checkVisibility())
    .map((row) => row.querySelector("summary").textContent);
  const points = () => document.querySelectorAll("#plot .point").length;
  const box = (value) => [...document.querySelectorAll("aside input")].find((found) => found.value === value);
  const choose = (id, value) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event("change"));
  };
  const tip = document.getElementById("tip");
  try {
    seen.all = [names(), points()];
    box("mrpc").click();
    seen.withoutMrpc = [names(), points()];
    box("dense").click();
    seen.withoutDense = [names(), points()];
    box("dense").click();
    box("mrpc").click();
    choose("y", "metric");
    const points_ = [...document.querySelectorAll("#plot .point")];
    const point = points_.find((found) => found.getAttribute("aria-label").includes("student"));
    seen.before = tip.checkVisibility();
    point.dispatchEvent(new PointerEvent("pointerenter"));
    seen.hover = tip.checkVisibility() && tip.innerText;
    point.dispatchEvent(new PointerEvent("pointerleave"));
    seen.left = tip.checkVisibility();
    point.focus();
    seen.focus = tip.checkVisibility();
    dispatchEvent.call(document, new KeyboardEvent("keydown", { key: "Escape" }));
    seen.escaped = tip.checkVisibility();
    const header = [...document.querySelectorAll("#runs th")].find((found) => found.innerText.startsWith("MACs"));
    header.querySelector("button").click();
    seen.up = [header.getAttribute("aria-sort"), names()];
    header.querySelector("button").click();
    seen.down = [header.getAttribute("aria-sort"), names()];
    choose("x", "num_params");
    seen.parameters = points();
    seen.wide = document.documentElement.scrollWidth > innerWidth;
  } catch (error) {
    problems.push(String(error));
  }
  seen.problems = problems;
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
"""


def visit(page: Path, profile: Path, width: int) -> dict[str, Any]:
    """What the driver sees on a copy of the page, whose policy lets the driver in and nothing else."""
    known = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace("script-src '", f"script-src 'sha256-{known}' '", 1)
    copy = page.with_name(f"driven-{width}.html")
    copy.write_text(text.replace("<title>", f"<script>{DRIVER}</script><title>", 1), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=2000"]
    words = [
        str(CHROMIUM),
        *flags,
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-2000:]
    return dict(json.loads(html.unescape(found.group(1))))


def test_page_works_in_a_browser(tmp_path: Path) -> None:
    """No error; filters hide rows and points; hover and keyboard show values; sorting keeps what is missing last."""
    runs = tmp_path / "runs"
    made.teacher(runs, 0.8)
    for seed, accuracy in ((1, 0.6), (2, 0.7)):
        made.student(runs, seed, accuracy)
    made.student(runs, 2, 0.5, name="<img src=x onerror=alert(1)>", lr=1e-3)
    made.ratios(runs, dense=0.8, at_four=0.6)
    page = write_report(parse([str(runs), "--output", str(tmp_path / "r.html")]))[0]
    seen = visit(page, tmp_path / "profile", width=500)

    assert seen["problems"] == [] and seen["ready"] == "yes"
    hostile, student = "sst2-2/<img src=x onerror=alert(1)>", "sst2-*/student"
    mrpc = ["valid, dense", "adapted", "valid, k=4"]
    assert seen["all"] == [[*mrpc, "teacher", student, hostile], 4]
    assert seen["withoutMrpc"] == [["teacher", student, hostile], 2]
    assert seen["withoutDense"] == [[student, hostile], 1]
    assert [seen[name] for name in ("before", "left", "focus", "escaped")] == [False, False, True, False]
    for part in (student, "0.650 ± 0.071 (n = 2)", "pruning 90%", "1.0 (8 × 128)", "81.2%"):
        assert part in seen["hover"]
    order = [student, "valid, k=4", "valid, dense", "teacher"]
    assert seen["up"][0] == "ascending" and seen["up"][1][:4] == order
    assert seen["down"][0] == "descending" and seen["down"][1][:4] == order[::-1]
    assert set(seen["down"][1][4:]) == {"adapted", hostile}
    assert seen["parameters"] == 5 and seen["wide"] is False
