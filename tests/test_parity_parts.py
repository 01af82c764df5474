"""Golden cases may leave out optional parts: the other parts are still compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parity import minidisc_data, tucker_text, variator_data

GOLDEN = Path(__file__).parent / "golden"


def without(folder: Path, name: str, key: str, value: Any) -> Path:
    """A copy of a case in which a part is null, or (value Ellipsis) is not there."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    golden[key] = None
    if value is ...:
        del golden[key]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(golden), encoding="utf-8")
    if (GOLDEN / f"{name}.npz").is_file():
        shutil.copy(GOLDEN / f"{name}.npz", folder)
    return folder


@pytest.mark.parametrize("value", [None, ...], ids=["null", "missing"])
@pytest.mark.parametrize(
    ("name", "check", "key"),
    [
        *(("variator_data", variator_data.check, key) for key in ("tokenised_examples", "verbalizer_words", "squad")),
        *(("X9_corpus_cleanup", tucker_text.check, key) for key in ("cleanup", "masked_lm", "truncate_seq_pair")),
        *(("M6_conlleval_and_metrics", minidisc_data.check_metrics, key) for key in ("conlleval", "glue_metrics")),
    ],
)
def test_a_case_without_a_part_is_checked(
    tmp_path: Path, name: str, check: Callable[[Path, str], None], key: str, value: Any
) -> None:
    """Nothing is looked up that is not there."""
    check(without(tmp_path, name, key, value), name)


def test_what_is_there_is_still_compared(tmp_path: Path) -> None:
    """Of a case without examples of the real vocabulary a wrong span is found."""
    folder = without(tmp_path, "variator_data", "tokenised_examples", None)
    golden = json.loads((folder / "variator_data.json").read_text())
    golden["span_corruption"][1]["labels"][3] += 1
    (folder / "variator_data.json").write_text(json.dumps(golden))
    with pytest.raises(AssertionError, match="labels"):
        variator_data.check(folder, "variator_data")
