"""The embedded demo task: what does the writer think of the film?

Every row is one sentence about an evening at the cinema. Its label is the writer's own opinion of the film,
"positive" or "negative". The rows differ in how much of the sentence has to be understood:

* *plain*: one verdict, and perhaps a remark that has nothing to do with it;
* *negated*: the verdict is turned round by a negation ("far from dull");
* *scope*: there is a negation in the remark, which must be left alone, and perhaps one in the verdict;
* *contrast*: two opposite verdicts, of which the main clause counts ("although the plot was dull, ...");
* *aside*: somebody else, or something other than the film, is judged too, and the other way round.

In contrasts and asides either clause may be negated. So the words alone settle most rows, while about a third
depends on which word belongs to which, which a shallow and narrow model does not work out. All labels are
right, both labels are equally likely at every level, and the level is not part of the text.

>>> for row in generate(7, seed=52):
...     print(row.label, LEVELS[row.level], row.text, sep=" | ")
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
SHARES = (64, 7, 8, 11, 10)
"""How many of 100 rows belong to each level, on average."""

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
NEGATED_SHARE = 0.3
"""How often a clause of a scope, contrast or aside row is negated."""

ASPECTS = "film plot story acting script ending dialogue music cast humour camera direction".split()
ELSEWHERE = "trailer poster popcorn weather queue dinner sequel hotel bus heating cafe parking".split()
PEOPLE = (
    "my brother",
    "my sister",
    "the critics",
    "our neighbours",
    "a friend",
    "the newspaper",
    "his mother",
    "her uncle",
)
FRAME = "although and but found i the was while , .".split()
"""The words that hold the sentences together."""

OPENERS = (
    "last night",
    "on friday",
    "after work",
    "back in june",
    "with friends",
    "on holiday",
    "on the way home",
    "to be fair",
    "as i said",
    "all in all",
    "in my view",
    "this time",
    "once again",
    "at last",
    "by the way",
    "to my surprise",
)
REMARKS = (
    "it was two hours long",
    "anna was there",
    "the lights were on",
    "the room was full",
    "we sat in the third row",
    "it was late",
    "the ticket was cheap",
    "the doors were open",
    "we were alone",
    "it was warm outside",
    "we took the train",
    "they sold ice cream",
    "my phone rang twice",
    "there were two breaks",
)
NEGATED_OPENERS = (
    "not long ago",
    "not far from here",
    "hardly awake",
    "never late",
    "by no means alone",
    "not in a hurry",
    "far from home",
)
NEGATED_REMARKS = (
    "it was not late",
    "anna was not there",
    "the lights were never on",
    "the room was hardly full",
    "the ticket was by no means cheap",
    "the doors were far from open",
    "we were not alone",
    "it was hardly warm outside",
    "my phone never rang",
)


@dataclass(frozen=True)
class DemoRow:
    """A sentence, its right label, and how hard it is (an index into `LEVELS`, for display only)."""

    text: str
    label: str
    level: int


def generate(n: int, *, seed: int) -> list[DemoRow]:
    """Makes `n` rows with distinct texts, the same ones for the same seed.

    Rows of one call never share a text, so cut training and test rows out of one call.

    >>> rows = generate(500, seed=7)
    >>> len({row.text for row in rows}), rows == generate(500, seed=7)
    (500, True)
    >>> sorted({row.label for row in rows})
    ['negative', 'positive']
    """
    rng = Random(seed)
    rows: dict[str, DemoRow] = {}
    while len(rows) < n:
        row = _row(rng)
        rows.setdefault(row.text, row)
    return list(rows.values())


def vocabulary() -> list[str]:
    """All words and punctuation marks that rows are made of, in alphabetical order.

    >>> known = set(vocabulary())
    >>> all(known.issuperset(row.text.split()) for row in generate(500, seed=7))
    True
    """
    phrases = chain(
        *WORDS.values(),
        *(DEGREES, NEGATIONS, ASPECTS, ELSEWHERE, PEOPLE, FRAME),
        *(OPENERS, REMARKS, NEGATED_OPENERS, NEGATED_REMARKS),
    )
    return sorted({word for phrase in phrases for word in phrase.split()})


def _row(rng: Random) -> DemoRow:
    level = rng.choices(range(len(LEVELS)), SHARES)[0]
    label = rng.choice(LABELS)
    if level in (CONTRAST, ASIDE):
        clauses = _contrast(rng, label) if level == CONTRAST else _aside(rng, label)
        opener = rng.choice(("", rng.choice(OPENERS)))
    else:
        opener, clauses = _single(rng, label, level)
    return DemoRow(_join(opener, opener and ",", clauses, "."), label, level)


def _single(rng: Random, label: str, level: int) -> tuple[str, str]:
    """An opener and the clauses of a row with one verdict; at least one of opener and remark is there."""
    negated = level == NEGATED or (level == SCOPE and rng.random() < NEGATED_SHARE)
    verdict = f"{_topic(rng, ASPECTS)} {_judgement(rng, label, negated)}"
    with_opener, with_remark = rng.choice(((True, False), (False, True), (True, True)))
    openers = NEGATED_OPENERS if level == SCOPE and not with_remark else OPENERS
    remarks = NEGATED_REMARKS if level == SCOPE else REMARKS
    clauses = [verdict, rng.choice(remarks)] if with_remark else [verdict]
    rng.shuffle(clauses)
    return rng.choice(openers) if with_opener else "", " and ".join(clauses)


def _contrast(rng: Random, label: str) -> str:
    """Two opposite verdicts on the film; the one in the main clause, or after "but", is the label."""
    main = f"{_topic(rng, ASPECTS)} {_maybe_negated(rng, label)}"
    other = f"{_topic(rng, ASPECTS)} {_maybe_negated(rng, OPPOSITE[label])}"
    forms = (f"{other} , but {main}", f"although {other} , {main}", f"{main} , although {other}")
    return rng.choices(forms, (2, 1, 1))[0]


def _aside(rng: Random, label: str) -> str:
    """A verdict on the film next to an opposite one which is not the writer's or not on the film."""
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
    return _judgement(rng, label, rng.random() < NEGATED_SHARE)


def _judgement(rng: Random, label: str, negated: bool) -> str:
    if negated:
        return f"{rng.choice(NEGATIONS)} {rng.choice(WORDS[OPPOSITE[label]])}"
    return _join(rng.choice(DEGREES), rng.choice(WORDS[label]))


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
