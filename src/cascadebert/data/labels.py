"""Names that data and classifiers give to the same labels."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Sequence
from io import StringIO
from pathlib import Path

from cascadebert.errors import DataError, printable

UNNAMED = "LABEL_"  # transformers' prefix for labels without a name
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")


def shorten(names: Sequence[str], most: int = 12, width: int = 40) -> str:
    """A comma-separated list for a message: `most` names of at most `width` characters.

    >>> shorten(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name, width) for name in names[:most]) + more


def whole_number(name: str) -> str:
    """A whole number without sign, fraction of zeros and the like; another name as it is.

    >>> whole_number("+1.0"), whole_number("one")
    ('1', 'one')
    """
    return str(int(name.partition(".")[0])) if _WHOLE_NUMBER.fullmatch(name) else name


def without_prefix(names: Sequence[str]) -> tuple[str, ...]:
    """The numbers of labels that are all unnamed; other names as they are.

    >>> without_prefix(["LABEL_1", "LABEL_0"]), without_prefix(["LABEL_1", "other"])
    (('1', '0'), ('LABEL_1', 'other'))
    """
    numbers = tuple(name.removeprefix(UNNAMED) for name in names)
    unnamed = all(name.startswith(UNNAMED) for name in names) and all(map(str.isdecimal, numbers))
    return numbers if unnamed else tuple(names)


def same_labels(one: Sequence[str], other: Sequence[str]) -> bool:
    """True if two classifiers have the same labels, in any order; the unnamed `LABEL_1` is also "1"."""
    return sorted(without_prefix(one)) == sorted(without_prefix(other))


def read_ids(labels: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """The names of labels that are all written as ids, by label; empty if they are not.

    Ids of named labels are numbers from 0: data that has no 0 may count from 1.

    >>> read_ids({"0", "1"}, ("negative", "positive"))
    {'0': 'negative', '1': 'positive'}
    >>> read_ids({"1", "2"}, ("negative", "neutral", "positive"))
    {}
    """
    ids, plain = tuple(str(i) for i in range(len(names))), without_prefix(names)
    if sorted(plain) == sorted(ids):
        known = dict(zip(plain, names, strict=True))
        known |= {UNNAMED + number: name for number, name in known.items()}
    elif "0" in labels and not any(_WHOLE_NUMBER.fullmatch(name) for name in names):
        known = dict(zip(ids, names, strict=True))
    else:
        return {}
    return known if set(labels) <= set(known) else {}


def near_matches(labels: Collection[str], names: Sequence[str]) -> str:
    """A sentence on labels that differ from a name only in case, spaces, hyphens or underscores.

    >>> near_matches(["Positive"], ["positive"])
    " Some differ only in case or spaces: data 'Positive', stage 'positive'."
    """
    folded = {_fold(name): name for name in names}
    pairs = [(label, folded[_fold(label)]) for label in labels if _fold(label) in folded]
    found = [f"data {label!r}, stage {name!r}" for label, name in pairs if label != name]
    return f" Some differ only in case or spaces: {'; '.join(found[:4])}." if found else ""


def read_label_map(file: Path) -> dict[str, str]:
    """A file's name for each label of the data: a JSON object, or a CSV file of two columns without header.

    Raises DataError if it is neither.
    """
    try:
        text = file.read_text("utf-8-sig")
        pairs = _json_pairs(text) if text.lstrip().startswith("{") else list(csv.reader(StringIO(text)))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: no readable label map ({error})") from error
    found: dict[str, str] = {}
    for line, cells in enumerate(filter(None, pairs), start=1):
        if len(cells) != 2 or not all(cell.strip() for cell in cells):
            raise DataError(
                f"{file}, entry {line}: expected two cells, the data's label and the stages' name for it; "
                f"found {len(cells)}: {shorten(cells)}"
            )
        label, name = whole_number(cells[0].strip()), cells[1]
        if found.setdefault(label, name) != name:
            raise DataError(f"{file}: two names for the label {label!r}: {found[label]!r} and {name!r}")
    return found


def _json_pairs(text: str) -> list[list[str]]:
    values = json.loads(text)
    for value in values.values():
        if not isinstance(value, (str, int)):
            raise ValueError(f"expected names, found {value!r:.40}")
    return [[label, str(name)] for label, name in values.items()]


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())
