"""Named entities: precision, recall and F1 of predicted label ids, entity by entity and sentence by sentence."""

from collections.abc import Sequence

from metric.chunks import chunk_scores
from metric.errors import MetricError

LabelIds = Sequence[Sequence[int]]


def entity_scores(predictions: LabelIds, labels: LabelIds, names: Sequence[str]) -> dict[str, float]:
    """Micro-averaged entity scores; no entity goes on from one sentence into the next.

    Args:
        predictions: the label ids of each sentence's words.
        labels: the gold ones, of the same lengths.
        names: the tag of each label id, such as O, B-PER, I-PER.

    Returns:
        {"f1", "precision", "recall"}, fractions in [0, 1]; 0.0 where there is nothing to divide by, as on a set
        without any entity.

    Raises:
        MetricError: no sentences, lengths that differ, or an id that has no name.
    """
    found = chunk_scores(_tags("predictions", predictions, names), _tags("labels", labels, names))
    return {name: found[name] for name in ("f1", "precision", "recall")}


def _tags(what: str, sentences: LabelIds, names: Sequence[str]) -> list[list[str]]:
    for number, ids in enumerate(sentences):
        if unknown := [label for label in ids if not 0 <= label < len(names)]:
            raise MetricError(f"{what}, sentence {number}: found label {unknown[0]}, expected 0 to {len(names) - 1}")
    return [[names[label] for label in ids] for ids in sentences]
