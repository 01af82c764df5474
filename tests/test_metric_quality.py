"""The quality measures: GLUE, SQuAD, entities."""

import math

import numpy as np
import pytest
import torch

from metric import MetricError, chunks, glue, squad

# Counts by hand for class 1: 3 hits, 1 false alarm, 2 misses, 4 right rejections.
PREDICTED = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
LABELS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_classification_measures_equal_their_definitions():
    """Accuracy, F1 and Matthews correlation from a confusion table counted by hand."""
    assert glue.accuracy(PREDICTED, LABELS) == pytest.approx(7 / 10)
    assert glue.f1(PREDICTED, LABELS) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert glue.macro_f1(PREDICTED, LABELS) == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert glue.matthews(PREDICTED, LABELS) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_f1_is_of_class_one():
    """Swapping the classes changes F1; the positive class is 1."""
    flipped = glue.f1([1 - value for value in PREDICTED], [1 - value for value in LABELS])
    assert flipped == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))


def test_correlations_equal_their_definitions():
    """Pearson is linear, Spearman only looks at ranks and gives ties their mean rank."""
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]
    assert glue.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert glue.spearman(x, y) == pytest.approx(1.0)
    assert glue.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1])
    assert glue.pearson_spearman(x, y) == pytest.approx((glue.pearson(x, y) + 1.0) / 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("measure", [glue.f1, glue.matthews, glue.pearson, glue.spearman])
def test_undefined_measures_are_zero_and_not_nan(measure):
    """0/0 is 0.0: the original's NaN never beat the best value, so its best model was never saved."""
    assert measure([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0


def test_compute_takes_a_task_a_metric_or_several_metrics():
    """Names select the measures and order the result; tensors, arrays and lists give the same."""
    assert list(glue.compute("mrpc", PREDICTED, LABELS)) == ["f1", "accuracy"]
    assert glue.compute("accuracy", PREDICTED, LABELS) == {"accuracy": pytest.approx(0.7)}
    several = glue.compute(["matthews", "f1"], torch.tensor(PREDICTED), np.array(LABELS))
    assert several == glue.compute(("matthews", "f1"), PREDICTED, LABELS)


def test_every_glue_task_is_scored_by_known_metrics():
    """The table of tasks names only metrics that exist, for all nine tasks and MNLI's second dev set."""
    assert len(glue.GLUE_METRICS) == 10
    assert {name for names in glue.GLUE_METRICS.values() for name in names} <= set(glue.METRICS)


@pytest.mark.parametrize(
    ("names", "predictions", "labels", "message"),
    [
        ("acuracy", [1], [1], "unknown metric 'acuracy'"),
        ("accuracy", [1, 0], [1], "2 predictions for 1 labels"),
        ("accuracy", [], [], "no examples"),
        ("accuracy", [[0.2, 0.8]], [1], "shape"),
        ("accuracy", [0.5], [1], "0.5"),
        ("accuracy", ["yes"], [1], "yes"),
        ("f1", [2, 1], [1, 1], "class 2"),
        ("pearson", [float("nan"), 1.0], [1.0, 2.0], "nan"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_in_one_sentence(names, predictions, labels, message):
    """Wrong names, sizes and values raise a MetricError that says what was found."""
    with pytest.raises(MetricError, match=message) as caught:
        glue.compute(names, predictions, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S.!", "us"),
        ("An apple a day", "apple day"),
        ("theatre", "theatre"),
        ("the-end", "theend"),
        ("  \t\n", ""),
        ("Ünïcode’s", "ünïcode’s"),
    ],
)
def test_answers_are_normalised(text, normal):
    """Case, ASCII punctuation, articles and spaces go; everything else stays."""
    assert squad.normalize_answer(text) == normal


def test_squad_takes_the_best_gold_answer():
    """EM and F1 are the maximum over the gold answers, F1 on bags of tokens."""
    assert squad.exact_match("Denver Broncos", ["Broncos", "the Denver Broncos"]) == 1.0
    assert squad.f1("red red blue", ["red blue blue", "red"]) == pytest.approx(2 * 2 / 6)


def test_an_exact_match_never_has_a_lower_f1():
    """An empty normalised answer that matches scores 1 on both; the original's 0 only on request."""
    assert (squad.exact_match("a", ["the"]), squad.f1("a", ["the"])) == (1.0, 1.0)
    assert squad.f1("a", ["the"], original=True) == 0.0
    assert squad.f1("", ["1843"]) == 0.0


def test_squad_scores_are_means_over_all_questions():
    """One right, one half right, one wrong."""
    scores = squad.squad_scores(
        {"q1": "Paris", "q2": "in Paris", "q3": "Rome"}, {"q1": ["Paris"], "q2": ["Paris"], "q3": ["Paris"]}
    )
    assert scores == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, {}, "no questions"),
        ({}, {"q7": ["x"]}, "1 questions have no prediction.*q7"),
        ({"q7": "x", "q8": "x"}, {"q7": ["x"]}, "belong to no question.*q8"),
        ({"q7": "x"}, {"q7": []}, "gold answers"),
        ({"q7": "x"}, {"q7": "x"}, "gold answers"),
    ],
)
def test_squad_refuses_questions_that_do_not_fit_the_predictions(predictions, references, message):
    """A question that was never answered must not pass as a wrong answer."""
    with pytest.raises(MetricError, match=message):
        squad.squad_scores(predictions, references)


def test_entities_count_only_with_both_ends_and_the_type():
    """Two gold entities, two found, one of them right."""
    scores = chunks.chunk_scores([["B-PER", "I-PER", "O", "B-LOC", "O"]], [["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]])
    assert scores == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert chunks.entity_f1([["B-PER"]], [["B-LOC"]]) == 0.0


def test_entities_follow_the_rules_of_conlleval():
    """A change of type splits a chunk, an I- after O opens one, sentences do not run into each other."""
    assert chunks.entity_f1([["B-PER", "I-LOC"]], [["B-PER", "B-LOC"]]) == 1.0
    assert chunks.entity_f1([["O", "I-LOC"]], [["O", "B-LOC"]]) == 1.0
    assert chunks.entity_f1([["B-LOC"], ["I-LOC"]], [["B-LOC"], ["B-LOC"]]) == 1.0


@pytest.mark.filterwarnings("error")
def test_entity_scores_without_entities_are_zero():
    """Nothing to find and nothing found is 0.0, without a warning."""
    assert chunks.chunk_scores([["O", "O"]], [["O", "O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([], [], "no sentences"),
        ([["O"]], [], "1 predicted sentences for 0"),
        ([["O"]], [["O", "O"]], "sentence 0: 1 predicted tags for 2"),
        ([["O"], ["PER"]], [["O"], ["O"]], "sentence 1: found the tag 'PER'"),
        ([["O"]], [["B-"]], "found the tag 'B-'"),
    ],
)
def test_tags_that_cannot_be_scored_are_refused(predictions, labels, message):
    """Lengths that differ and unknown tags are named with their sentence."""
    with pytest.raises(MetricError, match=message):
        chunks.chunk_scores(predictions, labels)
