"""The classes of a saved classifier in the order of a task's: matched by their names, never by their places alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from utils.errors import UserError
from utils.telling import tell, warn

#: Names that mean the same in the tasks that the toolkit knows; the first is any task's own spelling.
_SYNONYMS = (
    ("negative", "neg", "bad"),
    ("positive", "pos", "good"),
    ("neutral", "neu", "neither"),
    ("entailment", "entail", "entails", "entailed"),
    (
        *("not_entailment", "non_entailment", "no_entailment", "notentailment", "nonentailment"),
        *("not_entailed", "non_entailed", "not_entail"),
    ),
    ("contradiction", "contradictory", "contradict", "contradicts", "contradicted"),
    (
        *("equivalent", "paraphrase", "paraphrases", "duplicate", "duplicates", "semantically_equivalent"),
        *("is_paraphrase", "is_duplicate"),
    ),
    (
        *("not_equivalent", "non_equivalent", "inequivalent", "not_paraphrase", "non_paraphrase", "no_paraphrase"),
        *("not_duplicate", "non_duplicate", "not_duplicates", "not_semantically_equivalent", "no_duplicate"),
    ),
    ("acceptable", "grammatical", "accepted"),
    ("unacceptable", "not_acceptable", "non_acceptable", "inacceptable", "ungrammatical", "not_accepted"),
)
_CANONICAL = {name: names[0] for names in _SYNONYMS for name in names}
#: Types of named entities.
_ENTITIES = {
    **dict.fromkeys(("person", "pers"), "per"),
    **dict.fromkeys(("organization", "organisation"), "org"),
    "location": "loc",
    "miscellaneous": "misc",
}
_TAG = re.compile(r"(?P<prefix>[bi])[-_](?P<type>.+)")
#: What Transformers writes where nobody has named the classes, and bare numbers, which say as little.
_UNNAMED = re.compile(r"(?:label[_ -]?)?(\d+)", re.IGNORECASE)


def class_names(config: Any) -> list[str]:
    """The names that a config gives to its classes."""
    return [str(config.id2label.get(i)) for i in range(config.num_labels)]


def order_of(found: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """For each wanted class the row in which a classifier has it; None where the names are others.

    Names are compared without regard to case and with known synonyms; `LABEL_2` is the third.
    """
    if len(found) != len(wanted):
        return None
    numbers = _numbers(found)
    if numbers is not None:
        return [numbers.index(i) for i in range(len(wanted))]
    rows = {canonical(name): row for row, name in enumerate(found)}
    order = [rows.get(canonical(name), -1) for name in wanted]
    return None if -1 in order or len(rows) < len(found) else order


def canonical(name: str) -> str:
    """One spelling for all names of a class."""
    plain = re.sub(r"[\s_-]+", "_", name.strip().lower())
    if (tag := _TAG.fullmatch(plain)) is not None:
        return f"{tag['prefix']}-{_ENTITIES.get(tag['type'], tag['type'])}"
    return _CANONICAL.get(plain, plain)


def sort_classes(model: Any, found: Sequence[str], wanted: Sequence[str], task: str, source: str) -> None:
    """Bring the classifier's rows into the order `wanted`.

    Raises:
        UserError: the classes are others.
    """
    if list(found) == list(wanted):
        return
    order = order_of(found, wanted)
    if order is None:
        raise UserError(
            f"The classes of {source} are {', '.join(found)}, those of {task} are {', '.join(wanted)}: it was trained "
            "for another task, or its config.json (id2label) names them in another way."
        )
    if _numbers(found) is not None:
        warn(
            f"{source} does not name its classes ({_some(found)}): they are "
            f"taken in the order of {task}'s: {_some(wanted)}."
        )
    if order != sorted(order):
        tell(f"The classes of {source} ({_some(found)}) are put in the order of {task}'s: {_some(wanted)}.")
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.copy_(parameter[order].clone())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The classes' own numbers, where they have no names; None where they have."""
    found = [_UNNAMED.fullmatch(name.strip()) for name in names]
    numbers = [int(match[1][:6]) for match in found if match is not None]
    if len(numbers) < len(names):
        return None
    return numbers if sorted(numbers) == list(range(len(names))) else None
