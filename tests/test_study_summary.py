"""The README's table of results: every study writes its own rows, from the files of its runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.studies import variator
from utils.studies.runner import Runner
from utils.studies.summary import SummaryRow, write_summary


def rows_in(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]


def test_a_study_replaces_its_rows_and_leaves_those_of_the_others(tmp_path: Path) -> None:
    """In the fixed order of methods, whatever order they are written in; the text around the table stays."""
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- measured results -->\n<!-- /measured results -->\nbelow\n")
    row = SummaryRow("90 % pruned", "sst2", "accuracy", 3, 0.8, 0.7, 0.875, {"labels alone": 0.6, "conventional": 0.5})
    for method, size in (("MiniDisc", "90 % pruned"), ("Variator", "k = 4"), ("MiniDisc", "95 % pruned")):
        write_summary(page, method, [replace(row, size=size)])
    cells = "SST2, accuracy, 3 | 0.800 | 0.700 | 87.5% | labels alone 0.600, conventional 0.500 |"
    assert rows_in(page) == [f"| Variator, k = 4 | {cells}", f"| MiniDisc, 95 % pruned | {cells}"]
    assert page.read_text().startswith("above\n") and page.read_text().endswith("-->\nbelow\n")
    page.write_text("no table")
    with pytest.raises(UserError, match="has no block <!-- measured results -->"):
        write_summary(page, "Variator", [])


def test_variator_rows_are_means_over_the_seeds_that_are_there(tmp_path: Path) -> None:
    """Kept is the mean of the seeds' own retentions; a control that was not run is not shown."""
    for seed, (dense, four) in {1: (0.8, 0.4), 3: (0.5, 0.5)}.items():
        folder = tmp_path / f"sst2-{seed}" / "valid-adapted"
        folder.mkdir(parents=True)
        accuracies = {1: dense, 2: 0.1, 4: four, 8: 0.3}
        values = [{"ratio": ratio, "accuracy": accuracy} for ratio, accuracy in accuracies.items()]
        (folder / "result.json").write_text(json.dumps({"rows": values}))
    study = variator.Study("data", "corpus", "backbone", Runner(tmp_path, 1), 10.0)
    at_four, at_eight = variator.summary_of(study, ["sst2", "mrpc"], [1, 2, 3])
    assert (at_four.size, at_four.seeds, at_four.others) == ("k = 4", 2, {})
    assert (at_four.dense, at_four.value, at_four.kept) == pytest.approx((0.65, 0.45, 0.75))
    assert at_eight.value == pytest.approx(0.3)
