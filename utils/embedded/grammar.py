"""A small English-like grammar: sentences about opinions and about a little world of facts.

Every generator takes a `random.Random` and returns plain strings, so that the same seed gives the same text
on every machine. Words are separated from punctuation as in GLUE's SST-2.

The answer is not a matter of one word: an opinion may be negated, and of two clauses the main one decides; the two
sentences of a pair have to be compared, across word order and synonyms. Pairs that do not match differ in most of what
they say: a T5 of two million parameters that is trained for a minute finds that (0.98), but not a single changed word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from utils.embedded import vocabulary as words

# ---- sentiment -------------------------------------------------------------------------------------------


def _clause(rng: random.Random, aspect: str, positive: bool, negations: float = 0.0) -> str:
    """One opinion on one aspect; the share `negations` of them negates the opposite ("was not dull")."""
    negated = rng.random() < negations
    adjective = rng.choice(words.POSITIVE if positive != negated else words.NEGATIVE)
    if negated:
        return f"the {aspect} was not {adjective}"
    if rng.random() < 0.25:
        adjective = f"{rng.choice(words.INTENSIFIERS)} {adjective}"
    return f"the {aspect} was {adjective}"


def sentiment(rng: random.Random, label: int) -> str:
    """A sentence whose overall opinion is negative (label 0) or positive (1).

    Four sentences in ten have one clause and two have two that agree; one in three of these clauses is negated. In
    the other four two clauses disagree, and the conjunction says which one counts ("although A , B": B;
    "B , although A": B; "A , but B": B).
    """
    positive = bool(label)
    main_aspect, other_aspect = rng.sample(words.TOPICS[rng.choice(tuple(words.TOPICS))], 2)
    shape = rng.random()
    if shape < 0.4:
        return f"{_clause(rng, main_aspect, positive, 1 / 3)} ."
    if shape < 0.6:
        first, second = (_clause(rng, aspect, positive, 1 / 3) for aspect in (main_aspect, other_aspect))
        return f"{first} and {second} ."
    main = _clause(rng, main_aspect, positive)
    other = _clause(rng, other_aspect, not positive)
    return rng.choice(
        (
            f"although {other} , {main} .",
            f"even though {other} , {main} .",
            f"{main} , although {other} .",
            f"{main} , even though {other} .",
            f"{other} , but {main} .",
        )
    )


# ---- facts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """Somebody did something to a thing, somewhere, some day."""

    person: str
    action: int
    colour: str
    thing: str
    place: str
    day: str


SLOTS: dict[str, tuple[str, ...] | tuple[int, ...]] = {
    "person": words.PEOPLE,
    "action": tuple(range(len(words.ACTIONS))),
    "colour": words.COLOURS,
    "thing": words.OBJECTS,
    "place": words.PLACES,
    "day": words.DAYS,
}


def draw_fact(rng: random.Random) -> Fact:
    """A fact with every slot drawn uniformly."""
    return Fact(**{slot: rng.choice(values) for slot, values in SLOTS.items()})  # type: ignore[arg-type]


def draw_facts(rng: random.Random, count: int) -> list[Fact]:
    """`count` facts that share neither the person nor the thing, so that a question on one has one answer."""
    people = rng.sample(words.PEOPLE, count)
    things = rng.sample(words.OBJECTS, count)
    return [replace(draw_fact(rng), person=person, thing=thing) for person, thing in zip(people, things, strict=True)]


def change(rng: random.Random, fact: Fact, slots: tuple[str, ...], count: int = 1) -> Fact:
    """`fact` with `count` of `slots` set to other values."""
    changed = {
        slot: rng.choice([value for value in SLOTS[slot] if value != getattr(fact, slot)])
        for slot in rng.sample(slots, count)
    }
    return replace(fact, **changed)  # type: ignore[arg-type]


def tell(rng: random.Random, fact: Fact, *, short: bool = False) -> str:
    """The fact as a clause, in some word order and with some synonym; `short` drops place and day."""
    past = words.ACTIONS[fact.action][rng.randrange(2)]
    thing = f"{fact.colour} {fact.thing}"
    if short:
        return rng.choice((f"{fact.person} {past} the {thing}", f"the {thing} was {past} by {fact.person}"))
    return rng.choice(
        (
            f"{fact.person} {past} the {thing} at the {fact.place} on {fact.day}",
            f"on {fact.day} {fact.person} {past} the {thing} at the {fact.place}",
            f"the {thing} was {past} by {fact.person} at the {fact.place} on {fact.day}",
            f"at the {fact.place} {fact.person} {past} the {thing} on {fact.day}",
        )
    )


# ---- questions -------------------------------------------------------------------------------------------


def ask(rng: random.Random, fact: Fact, slot: str) -> tuple[str, str]:
    """A question whose answer is `slot` of the fact, and that answer as it stands in the text."""
    _, _, plain, plain_synonym = words.ACTIONS[fact.action]
    verb = rng.choice((plain, plain_synonym))
    past = words.ACTIONS[fact.action][rng.randrange(2)]
    if slot == "person":
        return rng.choice((f"who {past} the {fact.thing} ?", f"by whom was the {fact.thing} {past} ?")), fact.person
    if slot == "thing":
        return rng.choice(
            (f"what did {fact.person} {verb} ?", f"which thing did {fact.person} {verb} ?")
        ), f"{fact.colour} {fact.thing}"
    if slot == "place":
        asker = rng.choice(("where", "at which place"))
        return f"{asker} did {fact.person} {verb} the {fact.thing} ?", fact.place
    if slot == "day":
        asker = rng.choice(("when", "on which day"))
        return f"{asker} did {fact.person} {verb} the {fact.thing} ?", fact.day
    if slot == "colour":
        return f"which colour was the {fact.thing} that {fact.person} {past} ?", fact.colour
    raise ValueError(f"no question asks for the slot {slot!r}; known: person, thing, place, day, colour")


QUESTION_SLOTS = ("person", "thing", "place", "day", "colour")


# ---- pairs -----------------------------------------------------------------------------------------------


def paraphrase(rng: random.Random, label: int) -> tuple[str, str]:
    """Two tellings of one fact (label 1), or of two facts that differ in four of six slots (0)."""
    fact = draw_fact(rng)
    other = fact if label else change(rng, fact, tuple(SLOTS), 4)
    return f"{tell(rng, fact)} .", f"{tell(rng, other)} ."


def entailment(rng: random.Random, label: int) -> tuple[str, str]:
    """A premise of two facts and a hypothesis that follows (label 0), or one with three of four slots changed (1)."""
    first, second = draw_facts(rng, 2)
    link = rng.choice(("and", "while"))
    premise = f"{tell(rng, first, short=True)} {link} {tell(rng, second, short=True)} ."
    claim = rng.choice((first, second))
    if label == 1:
        claim = change(rng, claim, ("person", "thing", "colour", "action"), 3)
    return premise, f"{tell(rng, claim, short=True)} ."


def inference(rng: random.Random, label: int) -> tuple[str, str]:
    """A premise and a hypothesis that it entails (label 0), leaves open (1: somebody else) or contradicts (2)."""
    fact = draw_fact(rng)
    premise = f"{tell(rng, fact)} ."
    plain = words.ACTIONS[fact.action][2 + rng.randrange(2)]
    if label == 2:
        return premise, rng.choice(
            (
                f"{fact.person} did not {plain} the {fact.colour} {fact.thing} .",
                f"{fact.person} was not at the {fact.place} on {fact.day} .",
                f"the {fact.colour} {fact.thing} was not at the {fact.place} .",
            )
        )
    if label == 1:
        fact = change(rng, fact, tuple(SLOTS), len(SLOTS))
    past = words.ACTIONS[fact.action][rng.randrange(2)]
    return premise, rng.choice(
        (
            f"{tell(rng, fact, short=True)} .",
            f"{fact.person} was at the {fact.place} on {fact.day} .",
            f"{fact.person} {past} something on {fact.day} .",
        )
    )


def answerability(rng: random.Random, label: int) -> tuple[str, str]:
    """A question and a sentence that answers it (label 0), or one on another fact (1)."""
    fact = draw_fact(rng)
    question, _ = ask(rng, fact, rng.choice(("place", "day", "thing", "person")))
    told = fact if label == 0 else change(rng, fact, tuple(SLOTS), len(SLOTS))
    return question, f"{tell(rng, told)} ."


def question_pair(rng: random.Random, label: int) -> tuple[str, str]:
    """Two questions that ask the same (label 1), or two on different facts, often for something else too (0)."""
    fact = draw_fact(rng)
    slot = rng.choice(QUESTION_SLOTS)
    first, _ = ask(rng, fact, slot)
    if label == 1:
        return first, ask(rng, fact, slot)[0]
    return first, ask(rng, change(rng, fact, tuple(SLOTS), len(SLOTS)), rng.choice(QUESTION_SLOTS))[0]


@dataclass(frozen=True)
class Reading:
    """A context, a question on it and where the answer starts (characters)."""

    context: str
    question: str
    answer: str
    answer_start: int


def reading(rng: random.Random, label: int = 0) -> Reading:
    """Three or four facts and a question on one of them; `label` is there for the common signature only."""
    facts = draw_facts(rng, rng.choice((3, 4)))
    sentences = [f"{tell(rng, fact)} ." for fact in facts]
    chosen = rng.randrange(len(facts))
    question, answer = ask(rng, facts[chosen], rng.choice(QUESTION_SLOTS))
    place = re.search(rf"\b{re.escape(answer)}\b", sentences[chosen])
    assert place is not None  # every telling names all the slots
    start = sum(len(sentence) + 1 for sentence in sentences[:chosen]) + place.start()
    return Reading(" ".join(sentences), question, answer, start)


# ---- running text ----------------------------------------------------------------------------------------


def passage(rng: random.Random) -> str:
    """A few connected sentences for the corpus.

    Opinions come with a verdict, facts are told twice or asked about and answered, so that a word hidden by
    span corruption can be found elsewhere in the line: here a small backbone learns to compare and to copy.
    """
    return rng.choice(PASSAGES)(rng)


def _opinions(rng: random.Random) -> str:
    label = rng.randrange(2)
    verdict = rng.choice(("a recommendation", "well worth it") if label else ("a disappointment", "not worth it"))
    return f"{sentiment(rng, label)} overall , {verdict} ."


def _retelling(rng: random.Random) -> str:
    fact = draw_fact(rng)
    return f"{tell(rng, fact)} . that is to say , {tell(rng, fact)} ."


def _summary(rng: random.Random) -> str:
    facts = draw_facts(rng, 2)
    told = " and ".join(tell(rng, fact, short=True) for fact in facts)
    return f"{told} . so {tell(rng, rng.choice(facts), short=True)} ."


def _question_and_answer(rng: random.Random) -> str:
    found = reading(rng)
    return f"{found.context} {found.question} {found.answer} ."


PASSAGES: tuple[Callable[[random.Random], str], ...] = (
    _opinions,
    _opinions,
    _retelling,
    _summary,
    _question_and_answer,
)
