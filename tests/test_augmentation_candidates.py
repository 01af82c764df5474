"""Data augmentation: which words are replaced by what, and the versions of a row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dataset.errors import DataError
from tests.helpers_augmentation import FIRST, GLOVE, SECOND, bert, glove, masked_lm
from tests.tiny_bert import tiny_word_pieces
from utils.augmentation.augmenter import Augmenter, Pieces, new_rows
from utils.augmentation.masked_lm import MaskedLm, Request, candidate_words, vocabulary
from utils.augmentation.neighbours import WordVectors, model_vectors, read_glove
from utils.augmentation.words import STOP_WORDS, Sentence, is_candidate, match_case, may_be_replaced

__all__ = ["bert", "glove", "masked_lm"]


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", " ", FIRST, SECOND, "  two  spaces , and\u00a0more ", "caf\u00e9 \u4f60\u597d a_b"]
)
def test_cutting_and_joining_gives_the_text_back(text: str) -> None:
    """Byte for byte, whatever stands between the words."""
    sentence = Sentence.of_text(text)
    assert sentence.joined(sentence.words) == text
    assert len(sentence.gaps) == len(sentence.words) + 1


def test_only_words_with_a_meaning_are_replaced() -> None:
    """Stop words in any case, punctuation, numbers and mixtures stay."""
    words = [word for word in Sentence.of_text(FIRST + " " + SECOND + " 1990s U2").words if may_be_replaced(word)]
    assert words == ["good", "film", "films", "bad", "plot", "dull"]
    assert all(word == word.lower() and word.isalpha() for word in STOP_WORDS)


def test_candidates_take_the_case_of_the_word() -> None:
    """A lower-case vocabulary can write names and capitals; what is written in capitals anyway stays."""
    pairs = {("movie", "film"): "movie", ("movie", "Film"): "Movie", ("movie", "FILM"): "MOVIE", ("un", "A"): "Un"}
    assert {pair: match_case(*pair) for pair in pairs} == pairs
    assert match_case("London", "paris") == "London"


# --- the masked language model ------------------------------------------------------------------------------------


def by_hand(masked_lm: MaskedLm, pieces: list[int], places: list[int]) -> list[list[str]]:
    """One forward pass for one sentence, scores of the whole row: the candidates at every place."""
    t = masked_lm.tokenizer
    masked = [t.mask_token_id if at in places else piece for at, piece in enumerate(pieces)]
    ids = [t.cls_token_id, *masked, t.sep_token_id, *pieces, t.sep_token_id]
    types = [0] * (len(masked) + 2) + [1] * (len(pieces) + 1)
    with torch.no_grad():
        logits = masked_lm.model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0]
    ranked = [t.convert_ids_to_tokens(logits[at + 1].argsort(descending=True).tolist()) for at in places]
    own = t.convert_ids_to_tokens([pieces[at] for at in places])
    return [
        [name for name in names if is_candidate(name) and name != word][: masked_lm.num_candidates]
        for names, word in zip(ranked, own, strict=True)
    ]


@contextmanager
def counted_rows(masked_lm: MaskedLm) -> Iterator[list[int]]:
    """The number of rows of every forward pass."""
    passes: list[int] = []
    hook = masked_lm.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        yield passes
    finally:
        hook.remove()


def requests_for(masked_lm: MaskedLm, texts: Sequence[str]) -> list[Request]:
    """All pieces of all texts are asked for."""
    encoded = masked_lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [Request(pieces, list(range(len(pieces)))) for pieces in encoded]


TEXTS = ("good", "it is a good film", "a bad film and a dull plot of the good film", "bad plot")


def test_batches_give_what_one_pass_per_word_gives(masked_lm: MaskedLm) -> None:
    """Many words of sentences of unlike length in few forward passes: the same candidates."""
    requests = requests_for(masked_lm, TEXTS)
    with counted_rows(masked_lm) as passes:
        found = masked_lm.candidates(requests)
    for request, names in zip(requests, found, strict=True):
        assert names == [by_hand(masked_lm, list(request.pieces), [place])[0] for place in request.places]
    words = sum(len(request.places) for request in requests)
    assert sum(passes) == words and len(passes) == -(-words // masked_lm.batch_size)


def test_words_are_masked_together_but_apart(masked_lm: MaskedLm) -> None:
    """At most the given share of a sentence, every word once, each with the others of its pass masked too."""
    several = MaskedLm(masked_lm.model, masked_lm.tokenizer, 4, batch_size=8, mask_share=0.3)
    requests = requests_for(several, TEXTS)
    with counted_rows(several) as passes:
        found = several.candidates(requests)
    assert sum(passes) == 1 + 5 + 4 + 2  # the third sentence has 11 pieces: 3 at once
    pieces = list(requests[2].pieces)
    for places in ([0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7]):
        assert [found[2][at] for at in places] == by_hand(several, pieces, places)


def test_scores_are_computed_at_the_masked_positions_alone(masked_lm: MaskedLm) -> None:
    """The vocabulary's matrix product sees one vector per position, not every token of the batch."""
    seen: list[torch.Size] = []
    hook = masked_lm.model.cls.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    masked_lm.candidates([Request([6, 7, 8], [0, 1, 2])])
    hook.remove()
    assert seen == [torch.Size([3, masked_lm.model.config.hidden_size])]


def test_long_sentences_are_read_through_a_window(masked_lm: MaskedLm) -> None:
    """Wherever the word stands in a sentence that is longer than the model reads."""
    pieces = tiny_word_pieces()("good film " * 60, add_special_tokens=False)["input_ids"]
    places = (0, 1, 59, 118, 119)
    (found,) = masked_lm.candidates([Request(pieces, places)])
    for at, names in zip(places, found, strict=True):
        assert len(names) == masked_lm.num_candidates and ("good", "film")[at % 2] not in names


def test_candidates_are_candidate_words(masked_lm: MaskedLm) -> None:
    """No parts of words, no special tokens, no marks, no stop words."""
    wide = MaskedLm(masked_lm.model, masked_lm.tokenizer, num_candidates=1000, batch_size=4, mask_share=0.15)
    ((found,),) = wide.candidates([Request([6, 7, 8], [0])])
    whole = {name for _, name in candidate_words(wide.tokenizer, wide.model.config.vocab_size)}
    assert set(found) == whole - {wide.tokenizer.convert_ids_to_tokens([6])[0]}


# --- neighbours ---------------------------------------------------------------------------------------------------


def test_glove_neighbours_are_the_nearest_by_cosine(glove: Path) -> None:
    """Best first, never the word itself in another case; none for unknown words."""
    vectors = read_glove(glove)
    assert vectors.nearest(["film", "Plots", "unheard"], 2) == [["films", "movie"], ["stories", "tales"], []]
    assert "1990s" not in vectors.words
    table = torch.tensor([[float(x) for x in line.split()[1:]] for line in GLOVE.splitlines()[:-1]])
    scores = torch.cosine_similarity(table, table[:1])
    words = [line.split()[0] for line in GLOVE.splitlines()[:-1]]
    assert vectors.nearest(["film"], 6)[0] == [words[i] for i in scores.argsort(descending=True).tolist() if i]


def test_glove_files_of_other_kinds_are_read(tmp_path: Path) -> None:
    """word2vec's first line, words with spaces in them, repeated words (the first counts), more than a block."""
    path = tmp_path / "vectors.txt"
    path.write_text(
        "3 2\nfilm 1 0\n. . . 0 1\nmovie 1 0.1\nfilm 0 1\n" + "1x 1 1\n" * 5000 + "plots 0 2e-1", encoding="utf-8"
    )
    vectors = read_glove(path)
    assert vectors.words == ["film", "movie", "plots"]
    assert vectors.nearest(["film"], 1) == [["movie"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("film 0.1 0.2", "2 numbers behind the word, expected 3"),
        ("film 0.1 0.2 0.3 0.4", "4 numbers behind the word, expected 3"),
        ("film 0.1 x 0.3", "'x' is not a finite number"),
        ("film 0.1 nan 0.3", "'nan' is not a finite number"),
        ("film 0.1  0.3", "'' is not a finite number"),
        ("film 1e99 0.1 0.3", "'1e99' is not a finite number"),
        ("film", "0 numbers behind the word, expected 3"),
    ],
)
def test_broken_glove_rows_are_named(row: str, words: str, tmp_path: Path) -> None:
    """File and line, what was found and what was expected."""
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE + row + "\nplot 0.1 0.2 0.3\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"glove\.txt:9: {words}"):
        read_glove(path)


def test_glove_files_without_a_word_are_refused(tmp_path: Path) -> None:
    """Empty, or without vectors."""
    (tmp_path / "a").write_text("")
    (tmp_path / "b").write_text("film\n")
    with pytest.raises(DataError, match="no word with its vector"):
        read_glove(tmp_path / "a")
    with pytest.raises(DataError, match="b:1: 0 numbers behind the word, expected at least 1"):
        read_glove(tmp_path / "b")


def test_without_glove_the_models_own_vectors_are_taken() -> None:
    """A word of several pieces has the mean of theirs, and is not replaced by one of them; unknown ones have none."""
    tokenizer = tiny_word_pieces()
    pieces = Pieces(tokenizer)
    table = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(0))
    words = list(candidate_words(tokenizer, len(table)))
    vectors = model_vectors(words, table, lambda word: pieces([word])[0], tokenizer.unk_token_id)
    mean = table[tokenizer.convert_tokens_to_ids(["film", "##s"])].mean(dim=0)
    scores = torch.cosine_similarity(table[[number for number, _ in words]], mean[None])
    ranked = [words[i][1] for i in scores.argsort(descending=True).tolist()]
    assert ranked[0] == "film"
    assert vectors.nearest(["films", "\u4f60"], 3) == [ranked[1:4], []]


# --- candidates and samples ---------------------------------------------------------------------------------------


def augmenter_for(masked_lm: MaskedLm | None, vectors: WordVectors) -> Augmenter:
    tokenizer = tiny_word_pieces()
    return Augmenter(Pieces(tokenizer), tokenizer.unk_token_id, vectors, masked_lm, num_candidates=4)


def test_single_pieces_are_predicted_and_others_compared(masked_lm: MaskedLm, glove: Path) -> None:
    """good and film come from the model, films from GloVe, the rest stays."""
    sentence = Sentence.of_text(FIRST)
    (found,) = augmenter_for(masked_lm, read_glove(glove)).candidates([sentence])
    assert [sentence.words[at] for at in sorted(found)] == ["good", "film", "films"]
    pieces = [piece for word in Pieces(masked_lm.tokenizer)(sentence.words) for piece in word]
    assert [list(found[3])] == by_hand(masked_lm, pieces, [3])
    assert list(found[8]) == ["film", "movie", "picture", "tales"]


def test_sentences_seen_before_cost_nothing(masked_lm: MaskedLm, glove: Path) -> None:
    """Candidates are kept per sentence and place."""
    augmenter = augmenter_for(masked_lm, read_glove(glove))
    sentences = [Sentence.of_text(text) for text in ("a good film", "a bad plot", "A  good film", "a good film")]
    with counted_rows(masked_lm) as passes:
        one = augmenter.candidates(sentences)
        assert passes == [6]  # three different sentences of two words
        assert augmenter.candidates(sentences[::-1]) == one[::-1] and passes == [6]


def test_words_are_replaced_with_the_given_probability() -> None:
    """Over many draws; candidates are drawn evenly."""
    sentence = Sentence.of_text("one film here")
    options = [{1: ["a", "b", "c", "d"]}]
    drawn: Counter[str] = Counter()
    for seed in range(4000):
        rows = new_rows([sentence], options, 1, 0.4, random.Random(seed))
        assert all(row[0][0] == "one" and row[0][2] == "here" for row in rows)
        drawn[rows[0][0][1] if rows else "film"] += 1
    assert abs(drawn.pop("film") / 4000 - 0.6) < 0.03
    assert all(abs(count / 4000 - 0.1) < 0.02 for count in drawn.values()) and len(drawn) == 4


def test_versions_differ_from_the_row_and_from_each_other() -> None:
    """Both texts of a pair change in the same version; what was there already is left out."""
    pair = [Sentence.of_text("good film"), Sentence.of_text("bad plot")]
    options = [{0: ["great", "fine"]}, {1: ["story"]}]
    rows = new_rows(pair, options, 200, 0.5, random.Random(0))
    texts = ["|".join(" ".join(words) for words in row) for row in rows]
    assert sorted(texts) == sorted({*texts}) and len(texts) == 3 * 2 - 1
    assert "good film|bad plot" not in texts and "great film|bad story" in texts
    assert new_rows(pair, options, 5, 0.0, random.Random(0)) == []


def test_vocabulary_is_by_id() -> None:
    """Ids beyond the tokenizer's, which padded embeddings have, are nothing."""
    names = vocabulary(tiny_word_pieces(), 200)
    assert names[tiny_word_pieces().convert_tokens_to_ids("film")] == "film" and names[199] == ""
