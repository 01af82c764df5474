"""Exact match and token F1 of SQuAD v1.1 (Rajpurkar et al., 2016, section 6.1).

Answers are compared after normalisation: lower case, without ASCII punctuation, without the articles a, an,
the, with single spaces. Each prediction takes its best score over the gold answers.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from metric.errors import MetricError

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """The form in which answers are compared, for example "The  U.S.!" -> "us"."""
    # Punctuation goes before the articles: "the-end" is one word, not an article and a word.
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def _gold_forms(answers: Sequence[str]) -> set[str]:
    if isinstance(answers, str) or not answers:
        raise MetricError(f"found {answers!r} as gold answers, expected a list of at least one string")
    return {normalize_answer(answer) for answer in answers}


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the normalised prediction equals one of the normalised gold answers, else 0.0."""
    return float(normalize_answer(prediction) in _gold_forms(answers))


def f1(prediction: str, answers: Sequence[str], *, original: bool = False) -> float:
    """The best F1 over the gold answers, on bags of normalised tokens, in [0, 1].

    Args:
        prediction: the predicted text.
        answers: the gold answers, at least one.
        original: a prediction that normalises to nothing scores 0 even where a gold answer does so too, as in
            the original Variator release. Otherwise that is a match, and scores 1.
    """
    tokens = normalize_answer(prediction).split()
    return max(_token_f1(tokens, gold.split(), original) for gold in _gold_forms(answers))


def _token_f1(predicted: list[str], gold: list[str], original: bool) -> float:
    if not predicted and not gold:
        return 0.0 if original else 1.0
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold))


def squad_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], *, original: bool = False
) -> dict[str, float]:
    """Both measures, averaged over all questions.

    Args:
        predictions: question id -> predicted text.
        references: question id -> gold answers. The ids on both sides have to be the same: a question without
            a prediction is a fault of the caller, not a wrong answer.
        original: see `f1`.

    Returns:
        {"exact_match": fraction, "f1": fraction}.

    Raises:
        MetricError: no questions, ids that differ, or a question without gold answers.
    """
    if not references:
        raise MetricError("no questions to score, expected at least one")
    for name, differing in (
        ("questions have no prediction", references.keys() - predictions.keys()),
        ("predictions belong to no question", predictions.keys() - references.keys()),
    ):
        if differing:
            raise MetricError(f"{len(differing)} {name} (for example {min(differing)!r}), expected equal ids")
    total = len(references)
    exact = sum(exact_match(predictions[key], answers) for key, answers in references.items())
    overlap = sum(f1(predictions[key], answers, original=original) for key, answers in references.items())
    return {"exact_match": exact / total, "f1": overlap / total}
