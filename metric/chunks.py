"""Entity-level precision, recall and F1 of tagged sentences, by seqeval, with the chunk rules of conlleval.

An entity counts only if its type and both its ends are right. A chunk ends where the tag says O, where the
type changes, and before B- or S-; an I- tag after O opens a chunk.
"""

from collections.abc import Sequence
from typing import Final

from seqeval import metrics as seqeval_metrics

from metric.errors import MetricError

Sentences = Sequence[Sequence[str]]

_PREFIXES: Final = ("B-", "I-", "E-", "S-")


def _check_tags(name: str, sentences: Sentences) -> None:
    for number, tags in enumerate(sentences):
        for tag in tags:
            if tag != "O" and not (isinstance(tag, str) and tag.startswith(_PREFIXES) and len(tag) > 2):
                raise MetricError(
                    f"{name}, sentence {number}: found the tag {tag!r}, expected O or B- I- E- S- and a type"
                )


def chunk_scores(predictions: Sentences, labels: Sentences) -> dict[str, float]:
    """Micro-averaged entity scores.

    Args:
        predictions: one sequence of tags per sentence, for example ["B-PER", "I-PER", "O"].
        labels: the gold tags, of the same lengths.

    Returns:
        {"precision", "recall", "f1"}, fractions in [0, 1]; 0.0 where there is nothing to divide by.

    Raises:
        MetricError: no sentences, lengths that differ, or a tag of another form.
    """
    if len(predictions) != len(labels):
        raise MetricError(f"{len(predictions)} predicted sentences for {len(labels)} labelled ones")
    if not labels:
        raise MetricError("no sentences to score, expected at least one")
    for number, (predicted, expected) in enumerate(zip(predictions, labels, strict=True)):
        if len(predicted) != len(expected):
            raise MetricError(f"sentence {number}: {len(predicted)} predicted tags for {len(expected)} labels")
    _check_tags("predictions", predictions)
    _check_tags("labels", labels)
    gold, found = [list(tags) for tags in labels], [list(tags) for tags in predictions]
    measures = {
        "precision": seqeval_metrics.precision_score,
        "recall": seqeval_metrics.recall_score,
        "f1": seqeval_metrics.f1_score,
    }
    return {name: float(measure(gold, found, zero_division=0)) for name, measure in measures.items()}


def entity_f1(predictions: Sentences, labels: Sentences) -> float:
    """The micro-averaged entity F1 alone; see `chunk_scores`."""
    return chunk_scores(predictions, labels)["f1"]
