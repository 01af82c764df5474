"""Tagged words: their files and tag schemes, word pieces, and labels of a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataset import DataError, TaggedSentence, encode_tagged, get_task, read_glue, read_tagged
from dataset.classification import PairCollator, encode_pairs
from dataset.collate import Collator
from dataset.conll import read_conll, write_conll
from dataset.features import IGNORED
from dataset.glue import GlueExample
from dataset.tokens import TokenCollator
from metric.ner import entity_scores
from tests.helpers_tokenizer import tiny_tokenizer
from tests.tiny_bert import tiny_word_pieces

CONLL = get_task("conll")
OUT, B_PER, I_PER, B_LOC = (CONLL.labels.index(tag) for tag in ("O", "B-PER", "I-PER", "B-LOC"))


def write(folder: Path, *sentences: str, name: str = "train.txt") -> Path:
    """A CoNLL file; a sentence is `word/tag word/tag`."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = ["\n".join(pair.replace("/", " ") for pair in sentence.split()) for sentence in sentences]
    (folder / name).write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return folder


def tags_of(folder: Path) -> list[list[str]]:
    """The tags of a training file as they are read."""
    return [[CONLL.labels[tag] for tag in s.tags or ()] for s in read_tagged(CONLL, folder, "train")]


def sentence(words: str, tags: str, index: int = 0) -> TaggedSentence:
    """A sentence that never was in a file."""
    return TaggedSentence(index, tuple(words.split(" ")), tuple(CONLL.labels.index(tag) for tag in tags.split()), ())


# --- files ----------------------------------------------------------------------------------------


def test_label_ids_are_minidiscs() -> None:
    """O first, then B- and I- of people, organisations, places and the rest; six types of WNUT-17."""
    assert CONLL.labels == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
    assert get_task("wnut17").num_labels == 13 and get_task("CoNLL-2003") is CONLL


@pytest.mark.parametrize("below", [".", "conll", "CoNLL-2003", "CoNLL", "conll2003", "conll/data", "glue/conll"])
@pytest.mark.parametrize("name", ["train.txt", "train.tsv", "train.conll"])
def test_files_are_found_in_the_usual_places(tmp_path: Path, below: str, name: str) -> None:
    """In the folder itself and its usual subfolders, under the usual endings."""
    write(tmp_path / below, "Anna/B-PER left/O", name=name)
    (found,) = read_tagged(CONLL, tmp_path, "train")
    assert (found.words, found.tags) == (("Anna", "left"), (B_PER, OUT))


def test_columns_documents_and_blank_lines(tmp_path: Path) -> None:
    """The first column is the word, the last the tag; -DOCSTART- and any number of blank lines only separate."""
    text = "-DOCSTART- -X- -X- O\n\n\nEU NNP B-NP B-ORG\r\nsaid VBD B-VP O\n \n\nAnna NNP B-NP B-PER\n\n"
    (tmp_path / "valid.txt").write_text(text, encoding="utf-8")
    found = read_tagged(CONLL, tmp_path, "valid")
    assert [row.words for row in found] == [("EU", "said"), ("Anna",)]
    assert [row.index for row in found] == [0, 1] and found[0].rows[0] == ("EU", "NNP", "B-NP", "B-ORG")


def test_a_test_file_may_do_without_tags(tmp_path: Path) -> None:
    """One column in a test file is words whose tags are hidden; in a training file it is an error."""
    write(tmp_path, "Anna left", name="test.txt")
    write(tmp_path, "Anna left")
    assert [(row.words, row.tags) for row in read_tagged(CONLL, tmp_path, "test")] == [(("Anna", "left"), None)]
    with pytest.raises(DataError, match=r"train\.txt:1: 1 column, expected a token and its tag"):
        read_tagged(CONLL, tmp_path, "train")


def test_an_unknown_tag_is_named_with_file_and_line(tmp_path: Path) -> None:
    """The original raised a KeyError."""
    write(tmp_path, "Anna/B-PER left/O", "on/O Monday/B-TIME")
    with pytest.raises(DataError, match=r"train\.txt:5: the tag 'B-TIME' is none of conll's: O, B-PER, I-PER"):
        read_tagged(CONLL, tmp_path, "train")


def test_tags_of_an_unknown_form_get_a_hint(tmp_path: Path) -> None:
    """BIOES, and a file whose columns stand the other way round."""
    write(tmp_path, "Anna/S-PER left/O")
    with pytest.raises(DataError, match=r"the tag 'S-PER' is none of conll's: .* write the tags as BIO"):
        read_tagged(CONLL, tmp_path, "train")
    write(tmp_path, "B-PER/Anna O/left")
    with pytest.raises(DataError, match=r"the tag 'Anna' is none of conll's: .* the token is expected first"):
        read_tagged(CONLL, tmp_path, "train")


@pytest.mark.parametrize(
    ("sentences", "expected", "said"),
    [
        (["left/O Anna/I-PER"], [["O", "B-PER"]], "1 entity begins with I- and not with B- (line 2); it is read"),
        (["Anna/I-PER Hill/I-PER"], [["B-PER", "I-PER"]], "(line 1)"),
        (["Anna/B-LOC Hill/I-PER"], [["B-LOC", "B-PER"]], "(line 2)"),
        (["Anna/I-LOC Hill/I-PER Ben/I-LOC"], [["B-LOC", "B-PER", "B-LOC"]], "3 entities begin with I-"),
        (["Anna/I-PER Ben/B-PER Hill/I-PER"], [["B-PER", "B-PER", "I-PER"]], "(line 1)"),
        (
            ["in/O Rome/B-LOC", "Anna/I-PER"],
            [["O", "B-LOC"], ["B-PER"]],
            "1 entity begins with I- and not with B- (line 4)",
        ),
        (
            ["Rome/I-LOC"] * 5,
            [["B-LOC"]] * 5,
            "5 entities begin with I- and not with B- (line 1, 3, 5 …); they are read",
        ),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sentences: list[str], expected: list[list[str]], said: str
) -> None:
    """Where I- begins an entity, in IOB1 or in a mixture, it is counted in one line and read as B-."""
    write(tmp_path, *sentences)
    assert tags_of(tmp_path) == expected
    (message,) = caplog.messages
    assert said in message and "conlleval" in message


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities of a sentence by conlleval's rules, written down once more."""
    found, begin, kind = set(), 0, ""
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix in "BO" or name != kind):
            found.add((begin, at, kind))
            kind = ""
        if prefix != "O" and not kind:
            begin, kind = at, name
    return found


def test_every_mixture_of_tags_scores_as_conlleval_scores_it(tmp_path: Path) -> None:
    """Gold tags read from a file, predictions as they come: entities and F1 are those of the rules above."""
    rng = random.Random(3)
    tags = [[rng.choice(CONLL.labels[:5]) for _ in range(rng.randint(1, 7))] for _ in range(400)]
    write(tmp_path, *(" ".join(f"w/{tag}" for tag in row) for row in tags))
    read = tags_of(tmp_path)
    assert [entities(row) for row in read] == [entities(row) for row in tags]
    predicted = [[rng.choice([tag, rng.choice(CONLL.labels[:5])]) for tag in row] for row in tags]
    hits = sum(len(entities(one) & entities(other)) for one, other in zip(tags, predicted, strict=True))
    precision = hits / sum(len(entities(row)) for row in predicted)
    recall = hits / sum(len(entities(row)) for row in tags)
    ids = [[[CONLL.labels.index(tag) for tag in row] for row in rows] for rows in (predicted, tags, read)]
    for gold in ids[1:]:
        scores = entity_scores(ids[0], gold, CONLL.labels)
        assert scores["precision"] == pytest.approx(precision) and scores["recall"] == pytest.approx(recall)


def test_conll_2003_as_published_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its layout: four columns, documents, IOB1 in which two of many entities begin with B- after O."""
    block = "U.N. NNP I-NP I-ORG\nofficial NN I-NP O\nEkeus NNP I-NP I-PER\n\n"
    odd = "West NNP I-NP B-MISC\nIndian NNP I-NP I-MISC\nside NN I-NP O\n\n"
    text = "-DOCSTART- -X- O O\n\n" + block * 40 + odd + block * 40 + odd
    (tmp_path / "eng").mkdir()
    (tmp_path / "eng" / "train.txt").write_text(text)
    found = read_tagged(CONLL, tmp_path / "eng", "train")
    assert len(found) == 82 and found[40].tags == tuple(map(CONLL.labels.index, ("B-MISC", "I-MISC", "O")))
    (message,) = caplog.messages
    assert "160 entities begin with I- and not with B- (line 3, 5, 7 …)" in message


@pytest.mark.parametrize("tags", ["? ?", "-1 -1", "O TIME", "_ O"])
def test_placeholders_in_a_test_file_are_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture, tags: str) -> None:
    """The words are predicted; what stands in the place of tags is told and left alone."""
    first, second = tags.split()
    write(tmp_path, f"Anna/{first} left/{second}", name="test.txt")
    (found,) = read_tagged(CONLL, tmp_path, "test")
    assert found.words == ("Anna", "left") and found.tags is None and found.rows[0] == ("Anna", first)
    assert "the tags of this test file are not looked at" in caplog.text


def test_bio_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neighbours of one type keep their B-, and nothing is said."""
    write(tmp_path, "Anna/B-PER Ben/B-PER Hill/I-PER", "left/O")
    assert tags_of(tmp_path) == [["B-PER", "B-PER", "I-PER"], ["O"]]
    assert not caplog.records


def test_missing_files_are_reported_with_what_is_there(tmp_path: Path) -> None:
    """The message says what was looked for and what the folder holds; the hub has no such files."""
    write(tmp_path / "conll", "Anna/B-PER", name="eng.train")
    with pytest.raises(DataError, match=r"no dev\.txt or dev\.tsv .* of conll, .*conll: it holds eng\.train"):
        read_tagged(CONLL, tmp_path, "valid")
    with pytest.raises(DataError, match="it does not exist"):
        read_tagged(CONLL, tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="--data_dir hub: conll is read from a folder"):
        read_tagged(CONLL, "hub", "train")
    with pytest.raises(DataError, match="sst2 is not a task of tagged words"):
        read_tagged(get_task("sst2"), tmp_path, "train")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Spaces separate, or tabs where a column holds a space."""
    for rows in ([[("a", "O"), ("b", "B-PER")], [("c", "O")]], [[("New York", "B-LOC")]]):
        path = write_conll(tmp_path / "made" / "file.txt", rows)
        assert [list(found.rows) for found in read_conll(path)] == rows
    assert path.read_text() == "New York\tB-LOC\n\n" and [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_broken_glue_rows_are_read_or_named(tmp_path: Path) -> None:
    """A blank line and a carriage return inside a field crashed the original; a short row is named."""
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nfine\rfilm\t1\n\ndull\t0\n")
    assert [(r.text_a, r.label) for r in read_glue(get_task("sst2"), tmp_path, "train")] == [
        ("fine\rfilm", 1),
        ("dull", 0),
    ]
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nfine\t1\n\ndull\n")
    with pytest.raises(DataError, match=r"train\.tsv:4: 1 column, the header has 2"):
        read_glue(get_task("sst2"), tmp_path, "train")


def test_wnut_has_its_published_sizes(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The real files are read whole, and are BIO."""
    task = get_task("wnut17")
    sizes = {split: len(read_tagged(task, shared / "data", split)) for split in ("train", "valid", "test")}
    assert sizes == {"train": 3394, "valid": 1009, "test": 1287} and not caplog.records
    tags = {tag for row in read_tagged(task, shared / "data", "valid") for tag in row.tags or ()}
    assert tags == set(range(task.num_labels))


# --- features and batches -------------------------------------------------------------------------


def test_only_the_first_piece_of_a_word_is_labelled() -> None:
    """[CLS], [SEP], further pieces and padding have -100."""
    tokenizer = tiny_word_pieces()
    rows = list(encode_tagged([sentence("xyz film", "B-PER I-PER"), sentence("a", "O", 1)], tokenizer, 16))
    assert tokenizer.convert_ids_to_tokens(list(rows[0].input_ids)) == ["[CLS]", "x", "##y", "##z", "film", "[SEP]"]
    batch = TokenCollator(PairCollator(Collator(tokenizer.pad_token_id)))(rows)
    x = IGNORED
    assert batch["labels"].tolist() == [[x, B_PER, x, x, I_PER, x], [x, OUT, x, x, x, x]]
    assert batch["attention_mask"].sum(1).tolist() == [6, 3] and not batch["token_type_ids"].any()
    assert batch["index"].tolist() == [0, 1]


@pytest.mark.parametrize("tag", ["O", "B-PER"])
def test_a_word_without_pieces_shifts_no_label(tag: str) -> None:
    """A zero-width space between words leaves its neighbours their tags."""
    tokenizer = tiny_word_pieces()
    (row,) = encode_tagged([sentence("a \u200b film", f"B-LOC {tag} B-PER")], tokenizer, 16)
    assert tokenizer.convert_ids_to_tokens(list(row.input_ids)) == ["[CLS]", "a", "film", "[SEP]"]
    assert list(row.starts) == [1, -1, 2]
    batch = TokenCollator(PairCollator(Collator(tokenizer.pad_token_id)))([row])
    assert batch["labels"].tolist() == [[IGNORED, B_LOC, B_PER, IGNORED]]


def test_long_sentences_are_cut_and_short_ones_left_alone() -> None:
    """A word that begins before the end keeps its tag, later ones are not seen; [SEP] stays."""
    tokenizer = tiny_word_pieces()
    for length, starts in ((7, [1, 2, 5]), (6, [1, 2, -1]), (4, [1, 2, -1])):
        (row,) = encode_tagged([sentence("a xyz film", "O B-PER O")], tokenizer, length)
        assert len(row.input_ids) == length and row.input_ids[-1] == tokenizer.sep_token_id
        assert list(row.starts) == starts
    with pytest.raises(DataError, match="--max_seq_length 3 leaves no room"):
        next(encode_tagged([sentence("a", "O")], tokenizer, 3))


def test_hidden_tags_make_no_labels() -> None:
    """A batch of a test file without tags."""
    tokenizer = tiny_word_pieces()
    (row,) = encode_tagged([TaggedSentence(0, ("a", "film"), None, ())], tokenizer, 16)
    assert "labels" not in TokenCollator(PairCollator(Collator(0)))([row])


def test_a_sentence_may_be_invisible() -> None:
    """One whose words all lack pieces says so."""
    tokenizer = tiny_word_pieces()
    rows = list(encode_tagged([sentence("\u200b", "O"), sentence("a", "O")], tokenizer, 16))
    assert [row.is_seen for row in rows] == [False, True]


def test_a_t5_reads_text_and_its_end_token() -> None:
    """No [CLS] in front, </s> behind each text and behind a sentence; all of the first token type."""
    tokenizer = tiny_tokenizer()
    single, pair = encode_pairs([GlueExample(0, "good film", None, 0), GlueExample(1, "a", "film", 0)], tokenizer, 16)
    (tagged,) = encode_tagged([sentence("good film", "O O")], tokenizer, 16)
    end = tokenizer.eos_token_id
    assert list(single.input_ids) == list(tagged.input_ids) and single.input_ids[-1] == end
    assert list(pair.input_ids).count(end) == 2 and pair.input_ids[-1] == end
    assert tagged.starts[0] == 0
    assert not PairCollator(Collator(tokenizer.pad_token_id))([tagged])["token_type_ids"].any()


def test_a_tokenizer_of_neither_kind_is_refused() -> None:
    """One without [CLS], [SEP] and </s>."""
    bare = SimpleNamespace(cls_token_id=None, sep_token_id=None, eos_token_id=None)
    with pytest.raises(DataError, match=r"neither \[CLS\] and \[SEP\] nor </s>"):
        next(encode_tagged([sentence("a", "O")], bare, 8))
