"""The Python that the pages show runs as it stands there, and numbers that follow from a formula are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import BertModel

from tests.helpers_decomposition import decomposed, decompositions
from tests.test_decomposition_originals import write_original
from tests.tiny import backbone
from tests.tiny_bert import save_bert
from utils import api_page

pytestmark = pytest.mark.usefixtures("single_thread")
ROOT = Path(__file__).resolve().parent.parent
#: Ranks for BERT-base, and some that a tiny one has.
_RANKS = {
    "rank_layer=72, rank_condim=384, rank_dim=384": "rank_layer=4, rank_condim=12, rank_dim=10",
    "rank_layer=24, rank_condim=384, rank_dim=384": "rank_layer=2, rank_condim=12, rank_dim=10",
    "first_layers(6)": "first_layers(1)",
    'embedding_type="tt", order=3, rank=64': 'embedding_type="tt", order=3, rank=2',
}
PAGES = (
    "README.md",
    "docs/tucker.md",
    "docs/embedding_factorisations.md",
    "docs/minidisc.md",
    "docs/composition.md",
)


def python_of(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, in a directory where the names that it loads are tiny models."""
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "bert-base-uncased")
    backbone(tmp_path / "t5-base")
    edit = decompositions()["IV"]
    write_original(tmp_path / "general-distilled", decomposed(edit, BertModel, layer_norm_eps=1e-12), edit)
    blocks = python_of(page)
    assert blocks
    for block in blocks:
        for printed, tiny in _RANKS.items():
            block = block.replace(printed, tiny)
        exec(compile(block, page, "exec"), {"__name__": "__page__"})


def test_the_table_of_published_sizes_is_what_the_formula_gives() -> None:
    """D·c + d·D + a·c·d + N·a numbers beside the dense matrices of BERT-base."""
    blocks, width = 144, 768
    rows = re.findall(
        r"^\| (\d+), (\d+)[^|]*\| ([\d.]+) M \| 1/([\d.]+) \|$", (ROOT / "docs/tucker.md").read_text(), re.M
    )
    assert [(a, c) for a, c, *_ in rows[:2]] == [("72", "384"), ("36", "256")] and len(rows) == 5
    for a, c, millions, share in rows:
        layer, rank = int(a), int(c)
        count = 2 * width * rank + layer * rank**2 + blocks * layer
        assert float(millions) == pytest.approx(count / 1e6, abs=0.005)
        assert float(share) == pytest.approx(blocks * width**2 / count, abs=0.5 if "." not in share else 0.05)


def test_the_page_of_public_names_is_up_to_date() -> None:
    """docs/api.md is what the docstrings give now."""
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), "run: python -m utils.api_page"
