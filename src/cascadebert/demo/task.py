"""The embedded demo task: what does the writer think of the film?

Every example is one sentence about an evening at the cinema, labelled with the writer's own opinion of the
film, "positive" or "negative". Examples differ in how much of the sentence a model has to understand:

* *plain*: one verdict, and perhaps a remark that has nothing to do with it;
* *negated*: a negation reverses the verdict ("far from dull");
* *scope*: a negation in the remark, which does not affect the label, and perhaps one in the verdict;
* *contrast*: two opposite verdicts, of which the main clause counts ("although the plot was dull, ...");
* *aside*: an opposite verdict that is somebody else's, or about something other than the film.

In contrasts and asides either clause may be negated. The words alone determine the label of most examples;
about a third depends on relations between words, which a shallow and narrow model does not learn. There is no
label noise, both labels are equally likely at every level, and the level is not part of the text.

>>> for example in generate(7, seed=52):
...     print(example.label, LEVELS[example.level], example.text, sep=" | ")
negative | aside | the story was simply shallow , and the critics found the story by no means flat .
positive | plain | the ticket was cheap and i found the camera truly lovely .
positive | contrast | after work , i found the story utterly silly , but i found the humour so moving .
positive | plain | on the way home , the humour was delightful .
positive | negated | on holiday , the story was never silly .
negative | plain | anna was there and the acting was utterly messy .
negative | scope | far from home , i found the humour far from superb .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

LEVELS = ("plain", "negated", "scope", "contrast", "aside")
WEIGHTS = (64, 7, 8, 11, 10)  # of each level, in percent
PLAIN, NEGATED, SCOPE, CONTRAST, ASIDE = range(len(LEVELS))

OPPOSITE = {"positive": "negative", "negative": "positive"}
LABELS = tuple(sorted(OPPOSITE))

WORDS = {
    "positive": (
        "brilliant charming clever delightful elegant funny gripping lovely moving superb touching warm witty"
        " wonderful"
    ).split(),
    "negative": (
        "awful boring clumsy confusing dreadful dull flat hollow lifeless messy shallow silly tedious weak"
    ).split(),
}
DEGREES = ("", "really", "quite", "very", "truly", "so", "rather", "simply", "utterly")
NEGATIONS = ("not", "never", "hardly", "far from", "by no means")
NEGATED_FRACTION = 0.3  # of the clauses of scope, contrast and aside sentences

ASPECTS = "film plot story acting script ending dialogue music cast humour camera direction".split()
ELSEWHERE = "trailer poster popcorn weather queue dinner sequel hotel bus heating cafe parking".split()
PEOPLE = (
    "my brother, my sister, the critics, our neighbours, a friend, the newspaper, his mother, her uncle"
).split(", ")
FRAME = "although and but found i the was while , .".split()  # function words and punctuation

OPENERS = (
    "last night, on friday, after work, back in june, with friends, on holiday, on the way home, "
    "to be fair, as i said, all in all, in my view, this time, once again, at last, by the way, "
    "to my surprise"
).split(", ")
REMARKS = (
    "it was two hours long, anna was there, the lights were on, the room was full, "
    "we sat in the third row, it was late, the ticket was cheap, the doors were open, we were alone, "
    "it was warm outside, we took the train, they sold ice cream, my phone rang twice, "
    "there were two breaks"
).split(", ")
NEGATED_OPENERS = (
    "not long ago, not far from here, hardly awake, never late, by no means alone, not in a hurry, "
    "far from home"
).split(", ")
NEGATED_REMARKS = (
    "it was not late, anna was not there, the lights were never on, the room was hardly full, "
    "the ticket was by no means cheap, the doors were far from open, we were not alone, "
    "it was hardly warm outside, my phone never rang"
).split(", ")


@dataclass(frozen=True)
class DemoExample:
    """A sentence, its label, and its difficulty (an index into `LEVELS`, for display only)."""

    text: str
    label: str
    level: int


def generate(n: int, *, seed: int) -> list[DemoExample]:
    """Generate `n` examples with distinct texts; split them to get training and test data without overlap.

    >>> examples = generate(500, seed=7)
    >>> len({example.text for example in examples}), examples == generate(500, seed=7)
    (500, True)
    >>> sorted({example.label for example in examples})
    ['negative', 'positive']
    """
    rng = Random(seed)
    examples: dict[str, DemoExample] = {}
    while len(examples) < n:
        example = _example(rng)
        examples.setdefault(example.text, example)
    return list(examples.values())


def vocabulary() -> list[str]:
    """List all words and punctuation marks of the task in alphabetical order.

    >>> known = set(vocabulary())
    >>> all(known.issuperset(example.text.split()) for example in generate(500, seed=7))
    True
    """
    phrases = chain(
        *WORDS.values(),
        *(DEGREES, NEGATIONS, ASPECTS, ELSEWHERE, PEOPLE, FRAME),
        *(OPENERS, REMARKS, NEGATED_OPENERS, NEGATED_REMARKS),
    )
    return sorted({word for phrase in phrases for word in phrase.split()})


def _example(rng: Random) -> DemoExample:
    level = rng.choices(range(len(LEVELS)), WEIGHTS)[0]
    label = rng.choice(LABELS)
    if level in (CONTRAST, ASIDE):
        clauses = _contrast(rng, label) if level == CONTRAST else _aside(rng, label)
        opener = rng.choice(("", rng.choice(OPENERS)))
    else:
        opener, clauses = _single(rng, label, level)
    return DemoExample(_join(opener, opener and ",", clauses, "."), label, level)


def _single(rng: Random, label: str, level: int) -> tuple[str, str]:
    # an opener and the clauses of an example with one verdict; it has an opener, a remark or both
    negated = level == NEGATED or (level == SCOPE and rng.random() < NEGATED_FRACTION)
    verdict = f"{_topic(rng, ASPECTS)} {_judgement(rng, label, negated)}"
    with_opener, with_remark = rng.choice(((True, False), (False, True), (True, True)))
    openers = NEGATED_OPENERS if level == SCOPE and not with_remark else OPENERS
    remarks = NEGATED_REMARKS if level == SCOPE else REMARKS
    clauses = [verdict, rng.choice(remarks)] if with_remark else [verdict]
    rng.shuffle(clauses)
    return rng.choice(openers) if with_opener else "", " and ".join(clauses)


def _contrast(rng: Random, label: str) -> str:
    # two opposite verdicts on the film; the one in the main clause, or after "but", is the label
    main = f"{_topic(rng, ASPECTS)} {_maybe_negated(rng, label)}"
    opposite = f"{_topic(rng, ASPECTS)} {_maybe_negated(rng, OPPOSITE[label])}"
    forms = (f"{opposite} , but {main}", f"although {opposite} , {main}", f"{main} , although {opposite}")
    return rng.choices(forms, (2, 1, 1))[0]


def _aside(rng: Random, label: str) -> str:
    # a verdict on the film next to an opposite one that is not the writer's, or not on the film
    topic = _topic(rng, ELSEWHERE)
    if rng.random() < 0.5:
        topic = f"{rng.choice(PEOPLE)} found the {rng.choice(ASPECTS)}"
    clauses = [
        f"{_topic(rng, ASPECTS)} {_maybe_negated(rng, label)}",
        f"{topic} {_maybe_negated(rng, OPPOSITE[label])}",
    ]
    rng.shuffle(clauses)
    return f" , {rng.choice(('and', 'while'))} ".join(clauses)


def _topic(rng: Random, things: Sequence[str]) -> str:
    return rng.choice(("i found the {}", "the {} was")).format(rng.choice(things))


def _maybe_negated(rng: Random, label: str) -> str:
    return _judgement(rng, label, rng.random() < NEGATED_FRACTION)


def _judgement(rng: Random, label: str, negated: bool) -> str:
    if negated:
        return f"{rng.choice(NEGATIONS)} {rng.choice(WORDS[OPPOSITE[label]])}"
    return _join(rng.choice(DEGREES), rng.choice(WORDS[label]))


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
