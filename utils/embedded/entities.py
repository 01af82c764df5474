"""Sentences with named entities, for a tagging task in CoNLL's form: people, organisations, places and the rest.

One word does not decide: "Stone" is a person in "Anna Stone", an organisation in "Stone Bank", a place in "near Stone",
and a prize in "the Stone Cup"; where a name stands alone, the words around it say what it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from utils.embedded import grammar
from utils.embedded import vocabulary as words

#: A word and its tag.
Tagged = tuple[str, str]


def _entity(kind: str, *names: str) -> list[Tagged]:
    return [(name, f"{'I' if at else 'B'}-{kind}") for at, name in enumerate(names)]


def _outside(text: str) -> list[Tagged]:
    return [(word, "O") for word in text.split()]


def _person(rng: random.Random) -> list[Tagged]:
    first, family = rng.choice(words.PEOPLE), rng.choice(words.FAMILIES)
    return _entity("PER", *rng.choice(((first,), (first, family), (family,))))


def _organisation(rng: random.Random) -> list[Tagged]:
    family, firm = rng.choice(words.FAMILIES), rng.choice(words.FIRMS)
    return _entity("ORG", *rng.choice(((family, firm), ("New", family, firm), (family,))))


def _place(rng: random.Random) -> list[Tagged]:
    family, land = rng.choice(words.FAMILIES), rng.choice(words.LANDS)
    return _entity("LOC", *rng.choice(((family, land), ("New", family), (family,))))


def _nation(rng: random.Random) -> list[Tagged]:
    return _entity("MISC", rng.choice(words.NATIONS))


def _prize(rng: random.Random) -> list[Tagged]:
    return _entity("MISC", rng.choice(words.FAMILIES), rng.choice(words.CUPS))


_SLOTS: dict[str, Callable[[random.Random], list[Tagged]]] = {
    "PER": _person,
    "ORG": _organisation,
    "LOC": _place,
    "NATION": _nation,
    "PRIZE": _prize,
}
#: The words around a name tell its kind, even if the name alone does not.
PATTERNS = (
    "PER met PER near LOC .",
    "PER said that PER lives in LOC .",
    "PER , who works for ORG , came from LOC .",
    "PER won the PRIZE on {day} .",
    "shares of ORG fell on {day} .",
    "ORG reported a loss and PER resigned .",
    "the board of ORG met in LOC on {day} .",
    "the road from LOC to LOC was closed on {day} .",
    "a NATION team came to LOC on {day} .",
    "the PRIZE was held in LOC , PER said .",
    "shares of ORG and ORG rose .",
)


def tagged_sentence(rng: random.Random) -> tuple[Tagged, ...]:
    """A sentence of words with their tags; one in eight has no entity, one in eight tells a fact of the grammar."""
    shape = rng.random()
    if shape < 0.125:
        return tuple(_outside(grammar.sentiment(rng, rng.randrange(2))))
    if shape < 0.25:
        told = grammar.tell(rng, grammar.draw_fact(rng)).split()
        return tuple((word, "B-PER" if word in words.PEOPLE else "O") for word in [*told, "."])
    pattern = rng.choice(PATTERNS).format(day=rng.choice(words.DAYS))
    return tuple(pair for word in pattern.split() for pair in (_SLOTS[word](rng) if word in _SLOTS else _outside(word)))
