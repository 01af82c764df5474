"""What the tests of data augmentation share: a tiny BERT with its heads, and a GloVe file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_bert import save_bert, tiny_word_pieces
from utils.augmentation.masked_lm import MaskedLm, load_masked_lm

GLOVE = """\
film 1.0 0.0 0.1
movie 0.9 0.1 0.1
picture 0.8 0.3 0.0
plots 0.0 1.0 0.0
stories 0.1 0.9 0.0
tales 0.2 0.8 0.1
films 1.0 0.05 0.1
1990s 1.0 0.0 0.1
"""
FIRST, SECOND = "It is a good film, and 2 films!", "The bad plot isn't dull"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with its heads."""
    return save_bert(tmp_path_factory.mktemp("augmentation") / "bert")


@pytest.fixture(scope="module")
def masked_lm(bert: Path) -> MaskedLm:
    return MaskedLm(
        load_masked_lm(str(bert), "--m"), tiny_word_pieces(), num_candidates=4, batch_size=8, mask_share=0.0
    )


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    return path
