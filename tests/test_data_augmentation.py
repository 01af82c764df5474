"""Data augmentation: which words are replaced by what, and the files that come out, for every task."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from dataset import read_glue
from dataset.conll import read_conll
from dataset.errors import DataError
from dataset.tasks import get_task
from tests.tiny_bert import bert_config, save_bert, tiny_word_pieces
from utils import data_augmentation
from utils.augmentation.augmenter import Augmenter, Pieces, new_rows
from utils.augmentation.masked_lm import MaskedLm, Request, candidate_words, load_masked_lm, vocabulary
from utils.augmentation.neighbours import WordVectors, model_vectors, read_glove
from utils.augmentation.words import STOP_WORDS, Sentence, is_candidate, match_case, may_be_replaced
from utils.errors import Interrupted, UserError

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
#: Rows of all tasks: their training file's header, and a row; `A` and `B` stand for its texts.
ROWS = {
    "CoLA": (None, "gj04\t1\t\tA"),
    "SST-2": ("sentence\tlabel", "A\t1"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t70\t71\tA\tB"),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\t2012\t1\tx\ty\tA\tB\t3.5",
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tA\tB\t0"),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tA\tB\tneutral\tneutral",
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "3\tA\tB\tnot_entailment"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "3\tA\tB\tentailment"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "3\tA\tB\t1"),
}
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


def write_task(glue: Path, folder: str, texts: list[tuple[str, str]]) -> Path:
    """A training file of a task with the given texts."""
    header, row = ROWS[folder]
    rows = ["\t".join({"A": a, "B": b}.get(column, column) for column in row.split("\t")) for a, b in texts]
    path = glue / folder / "train.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n", encoding="utf-8")
    return path


def run(bert: Path, glue: Path, task: str, *more: object) -> None:
    fixed = f"--pretrained_bert_model {bert} --glue_dir {glue} --task_name {task}"
    data_augmentation.main([*fixed.split(), *map(str, more)])


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


# --- tagged sentences -----------------------------------------------------------------------------------------------


def test_conll_columns_are_read(tmp_path: Path) -> None:
    """Tabs or spaces, blank lines with spaces in them, no blank line at the end."""
    path = tmp_path / "train.txt"
    path.write_text("-DOCSTART- -X- O\n\nEU NNP B-ORG\r\nrejects VBZ O\n \t\n\nPeter NNP B-PER", encoding="utf-8")
    sentences = list(read_conll(path))
    assert [(s.tokens, s.tags, s.line) for s in sentences] == [
        (("EU", "rejects"), ("B-ORG", "O"), 3),
        (("Peter",), ("B-PER",), 7),
    ]
    path.write_text("New York\tB-LOC\n!\tO\n", encoding="utf-8")
    assert [s.tokens for s in read_conll(path)] == [("New York", "!")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EU B-ORG\nrejects\n", r"train\.txt:2: 1 columns, expected 2"),
        ("EU NNP B-ORG\n\nrejects O\n", r"train\.txt:3: 2 columns, expected 3"),
        ("EU\n", r"train\.txt:1: 1 columns, expected a token and its tag"),
        ("\n-DOCSTART- O\n", "no sentences"),
    ],
)
def test_broken_conll_lines_are_named(text: str, words: str, tmp_path: Path) -> None:
    """File and line."""
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        list(read_conll(tmp_path / "train.txt"))


def test_real_tagged_data_are_read(shared: Path) -> None:
    """WNUT-17: every line that is not blank is a token of some sentence."""
    path = shared / "data" / "wnut17" / "train.txt"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert sum(len(sentence.rows) for sentence in read_conll(path)) == len(lines)


# --- the tool -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ROWS)
def test_every_glue_task_keeps_its_format(folder: str, bert: Path, tmp_path: Path) -> None:
    """Header, then each row followed by its versions; all but the texts stays; the reader reads it."""
    source = write_task(tmp_path, folder, [(FIRST, SECOND), ("2 of 3", ""), (SECOND, FIRST)])
    run(bert, tmp_path, folder, "--N", 6, "--p", 0.8)
    lines = (tmp_path / folder / "train_aug.tsv").read_text(encoding="utf-8").splitlines()
    original = source.read_text(encoding="utf-8").splitlines()
    at = 0 if folder == "CoLA" else 1
    assert lines[:at] == original[:at]
    starts = [lines.index(row) for row in original[at:]]
    assert starts == sorted(starts) and starts[0] == at
    groups = [lines[a:b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
    assert len(groups[0]) > 3 and len(groups[1]) == 1 and len(groups[2]) > 3
    texts = [k for k, column in enumerate(ROWS[folder][1].split("\t")) if column in ("A", "B")]
    for group in groups:
        rows = [row.split("\t") for row in group]
        for k in range(len(rows[0])):
            assert (len({row[k] for row in rows}) > 1) == (k in texts and len(rows) > 1)
    task = get_task(folder)
    examples = read_glue(task, tmp_path / folder, "train", file="train_aug.tsv")
    assert len(examples) == len(lines) - at and len({example.label for example in examples}) == 1
    assert not [path for path in (tmp_path / folder).iterdir() if path.name.startswith(".")]


def test_conll_labels_follow_their_words(bert: Path, tmp_path: Path) -> None:
    """Columns behind the token stay, sentences stay apart, document marks go."""
    folder = tmp_path / "conll"
    folder.mkdir()
    text = "-DOCSTART- -X- -X- O\n\nGood NN B-NP B-MISC\nFilms NN I-NP I-MISC\nof NN B-NP O\n\nbad NN B-NP O\n, , O O\n"
    (folder / "train.txt").write_text(text, encoding="utf-8")
    run(bert, tmp_path, "conll", "--N", 4, "--p", 1)
    sentences = list(read_conll(folder / "train_aug.tsv"))
    assert sentences[0].tokens == ("Good", "Films", "of") and len(sentences) > 4
    for sentence in sentences:
        expected = ("B-MISC", "I-MISC", "O") if len(sentence.tokens) == 3 else ("O", "O")
        assert sentence.tags == expected
        assert sentence.tokens[-1] in ("of", ",")
    assert len({sentence.tokens for sentence in sentences}) == len(sentences)
    assert all(sentence.tokens[0][0].isupper() for sentence in sentences if len(sentence.tokens) == 3)


def test_the_same_seed_gives_the_same_file(bert: Path, glove: Path, tmp_path: Path) -> None:
    """And another seed another one; candidates from the vectors alone give another one, too."""
    write_task(tmp_path, "MRPC", [(FIRST, SECOND)] * 3)
    made: list[bytes] = []
    for more in ((), (), ("--seed", 7), ("--candidates", "embeddings")):
        output = tmp_path / f"{len(made)}.tsv"
        run(bert, tmp_path, "mrpc", "--glove_embs", glove, "--output", output, *more)
        made.append(output.read_bytes())
    assert made[0] == made[1] and len(set(made)) == 3


def test_a_stopped_run_goes_on_where_it_was(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file has the bytes of an undisturbed run; a run with other settings starts anew."""
    monkeypatch.setattr(data_augmentation, "_BLOCK", 2)
    texts = [(f"{FIRST} {SECOND}" if k % 2 else f"dull film {k}", SECOND) for k in range(7)]
    write_task(tmp_path, "RTE", texts)
    target = tmp_path / "RTE" / "train_aug.tsv"
    run(bert, tmp_path, "rte", "--N", 3)
    expected = target.read_bytes()
    target.unlink()
    original = data_augmentation._augmented

    def stop(block: Any, first: int, *rest: Any) -> Any:
        if first == 4:
            raise KeyboardInterrupt
        return original(block, first, *rest)

    for more, goes_on in (((), True), (("--seed", 1), False)):
        monkeypatch.setattr(data_augmentation, "_augmented", stop)
        with pytest.raises(Interrupted, match="4 of 7 rows are kept"):
            run(bert, tmp_path, "rte", "--N", 3)
        assert not target.exists()
        (tmp_path / "RTE" / ".train_aug.tsv.partial").open("ab").write(b"half a li")
        monkeypatch.setattr(data_augmentation, "_augmented", original)
        capsys.readouterr()
        run(bert, tmp_path, "rte", "--N", 3, *more)
        assert ("going on behind row 4" in capsys.readouterr().out) == goes_on
        assert (target.read_bytes() == expected) == goes_on
        target.unlink()
    assert [path.name for path in (tmp_path / "RTE").iterdir()] == ["train.tsv"]


def test_a_model_without_a_head_is_named_and_its_vectors_work(tmp_path: Path) -> None:
    """A sentence encoder has no masked-language-model head: one sentence says so, and what to do."""
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(tmp_path / "encoder")
    tiny_word_pieces().save_pretrained(tmp_path / "encoder")
    write_task(tmp_path, "SST-2", [(FIRST, "")])
    with pytest.raises(UserError, match=r"encoder has no masked-language-model head.*--candidates embeddings"):
        run(tmp_path / "encoder", tmp_path, "sst2")
    run(tmp_path / "encoder", tmp_path, "sst2", "--candidates", "embeddings")
    assert len((tmp_path / "SST-2" / "train_aug.tsv").read_text().splitlines()) > 10


def test_a_head_alone_is_enough(tmp_path: Path) -> None:
    """BertForMaskedLM, and a directory whose embedding is not tied."""
    torch.manual_seed(0)
    BertForMaskedLM(bert_config(tie_word_embeddings=False)).save_pretrained(tmp_path / "lm")
    tiny_word_pieces().save_pretrained(tmp_path / "lm")
    assert load_masked_lm(str(tmp_path / "lm"), "--m") is not None


def test_defaults_are_tinyberts() -> None:
    """Candidates, probability and samples per task."""
    arguments = data_augmentation.AugmentationArguments("bert", Path("glue"), "mrpc")
    assert (arguments.M, arguments.p) == (15, 0.4)
    known = {"cola": 30, "mrpc": 30, "mnli": 10, "qnli": 20, "qqp": 10, "rte": 20, "sst2": 20, "stsb": 30}
    assert {name: data_augmentation.SAMPLES[name] for name in known} == known


@pytest.mark.parametrize(
    ("task", "more", "words"),
    [
        ("MRCP", (), "did you mean mrpc"),
        ("squad", (), "rows of squad cannot be augmented"),
        ("RTE", (), r"--glue_dir .*: no train.tsv of rte"),
        ("MRPC", ("--p", 1.5), "--p 1.5: expected 0 to 1"),
        ("MRPC", ("--M", 0), "--M 0: expected 1 or more"),
        ("MRPC", ("--N", -1), "--N -1: expected 0 or more"),
        ("MRPC", ("--mask_share", 2), "--mask_share 2.0: expected 0 to 1"),
        ("MRPC", ("--batch_size", 0), "--batch_size 0: expected 1 or more"),
        ("MRPC", ("--glove_embs", "nowhere.txt"), "--glove_embs nowhere.txt: there is no such file"),
        ("MRPC", ("--candidates", "glove"), "candidates"),
        ("MRPC", ("--task", "x"), "Not understood: --task|ambiguous|unrecognized"),
    ],
)
def test_bad_settings_are_one_sentence(
    task: str, more: tuple[object, ...], words: str, bert: Path, tmp_path: Path
) -> None:
    """Before anything is written."""
    write_task(tmp_path, "MRPC", [(FIRST, SECOND)])
    with pytest.raises((UserError, DataError), match=words):
        run(bert, tmp_path, task, *more)
    assert [path.name for path in (tmp_path / "MRPC").iterdir()] == ["train.tsv"]


def test_broken_rows_are_found_before_the_work_begins(bert: Path, tmp_path: Path) -> None:
    """File and line; a header without the text columns; QQP's short rows are left out, as by the reader."""
    path = write_task(tmp_path, "RTE", [(FIRST, SECOND)] * 2)
    path.write_text(path.read_text() + "4\tonly one text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:4: 2 columns, expected at least 3"):
        run(bert, tmp_path, "rte")
    path.write_text("index\tsentence1\tlabel\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:1: no column 'sentence2'"):
        run(bert, tmp_path, "rte")
    path = write_task(tmp_path, "QQP", [(FIRST, SECOND)])
    path.write_text(path.read_text() + "8\t1\n", encoding="utf-8")
    run(bert, tmp_path, "qqp", "--N", 1)
    (tmp_path / "conll").mkdir()
    (tmp_path / "conll" / "train.txt").write_text("EU B-ORG\nrejects\n")
    with pytest.raises(DataError, match=r"train\.txt:2: 1 columns, expected 2"):
        run(bert, tmp_path, "conll")


def test_vocabulary_is_by_id() -> None:
    """Ids beyond the tokenizer's, which padded embeddings have, are nothing."""
    names = vocabulary(tiny_word_pieces(), 200)
    assert names[tiny_word_pieces().convert_tokens_to_ids("film")] == "film" and names[199] == ""
