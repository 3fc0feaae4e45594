"""Names that data and classifiers give to the same labels."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from decimal import Decimal
from io import StringIO
from itertools import accumulate
from pathlib import Path

from cascadebert.errors import DataError, printable

UNNAMED = "LABEL_"  # transformers' prefix for labels without a name
MOST_CHARACTERS = 150  # of a list in a message
_WHOLE_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def shorten(names: Sequence[str], most: int = 12) -> str:
    """A comma-separated list for a message, cut after `most` names, or sooner if they are long.

    >>> shorten(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = [printable(name, 40) for name in names[:most]]
    lengths = accumulate(len(name) + 2 for name in shown)
    shown = shown[: max(1, sum(length <= MOST_CHARACTERS for length in lengths))]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def whole_number(name: str) -> str:
    """A whole number without sign, fraction of zeros and the like; another name as it is.

    >>> whole_number("+1.0"), whole_number("one")
    ('1', 'one')
    """
    return str(int(name.partition(".")[0])) if _WHOLE_NUMBER.fullmatch(name) else name


def number(name: str) -> Decimal | None:
    """The number that a label is, exactly; None if it is none.

    >>> number(" +1.0") == number("1"), number("1_000"), number("nan")
    (True, None, None)
    """
    return Decimal(name.strip()) if _NUMBER.fullmatch(name.strip()) else None


def is_missing_label(label: str | None) -> bool:
    """True for None, "nan" and -1: no label, unless one has this name."""
    return label is None or label.strip().lower() in ("", "nan") or number(label) == -1


def equal_names(
    labels: Collection[str],
    names: Collection[str],
    keys: Sequence[Callable[[str], Hashable]] = (str, str.strip, number),
) -> dict[str, str]:
    """The names of labels, by label: names of the same spelling first, then the only one with an equal key.

    >>> equal_names(["spam ", "+1", "eggs"], ["spam", "1"])
    {'spam ': 'spam', '+1': '1'}
    """
    found: dict[str, str] = {}
    for key in keys:
        same: dict[Hashable, list[str]] = {}
        for name in names:
            same.setdefault(key(name), []).append(name)
        only = {value: group[0] for value, group in same.items() if value is not None and len(group) == 1}
        found |= {label: only[key(label)] for label in labels if label not in found and key(label) in only}
    return found


def match_names(
    labels: Collection[str], names: Sequence[str], *, ids: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names of labels, by label, and notices on those that are written otherwise; others have none.

    Labels equal names as they are written, without spaces around them, or as numbers; else all of them may
    be the names' ids, if `ids` is true; last, case is ignored.
    """
    found = equal_names(labels, names)
    rest = [label for label in labels if label not in found and not is_missing_label(label)]
    if not rest:
        return found, ()
    plain = {label: whole_number(label.strip()) for label in (*found, *rest)}
    by_id = read_ids(set(plain.values()), names) if ids else {}
    if by_id:
        found = {label: by_id[given] for label, given in plain.items()}
        unnamed = same_labels(names, [str(i) for i in range(len(names))])
        return found, () if unnamed else (f"labels are read as the stages' ids: {_equations(found)}",)
    any_case = equal_names(rest, names, [_any_case])
    notice = f"labels are matched ignoring case: {_equations(any_case)}"
    return found | any_case, (notice,) if any_case else ()


def _any_case(name: str) -> str:
    return name.strip().casefold()


def _equations(names: Mapping[str, str]) -> str:
    return shorten([f"{label} = {names[label]}" for label in sorted(names)])


def similar_labels(labels: Collection[str]) -> list[str]:
    r"""Groups of labels that are equal as numbers or but for case, spaces or Unicode form, escaped.

    >>> similar_labels(["1", "1.0", "caf\u00e9", "Cafe\u0301", "other"])
    ["'1', '1.0'", "'Cafe\\u0301', 'caf\\xe9'"]
    """
    groups: dict[Hashable, list[str]] = {}
    for label in sorted(labels):
        text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        value = number(text)
        groups.setdefault(text if value is None else value, []).append(ascii(label))
    return [", ".join(group) for group in groups.values() if len(group) > 1]


def map_labels(labels: Collection[str], label_map: Mapping[str, str]) -> dict[str, str]:
    """The mapped name of each label, the label itself where the map has none."""
    keys = equal_names(labels, label_map)
    return {label: label_map[keys[label]] if label in keys else label for label in labels}


def declared_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Label names by column, as `datasets` declares them in the metadata of an Arrow schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        declared = {name: entry["names"] for name, entry in features.items() if _is_class_label(entry)}
        return {name: tuple(map(str, names)) for name, names in declared.items()}
    except (KeyError, TypeError, AttributeError, ValueError):  # another writer, or another form
        return {}


def _is_class_label(feature: object) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


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
    """A sentence on labels that differ from a name only in case, Unicode form, spaces, hyphens and the like.

    >>> near_matches(["Very Good"], ["very-good"])
    " Some differ only in case, spaces or Unicode form: 'Very Good' from 'very-good'."
    """
    folded = {_fold(name): name for name in names}
    pairs = [(label, folded[_fold(label)]) for label in labels if _fold(label) in folded]
    found = [f"{label!a} from {name!a}" for label, name in pairs if label != name]
    if not found:
        return ""
    return f" Some differ only in case, spaces or Unicode form: {shorten(found, most=4)}."


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
        label, name = cells
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
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
