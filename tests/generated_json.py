"""Generated JSON lines and arrays of objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from generated import (
    Case,
    Cell,
    Rng,
    Row,
    chance,
    compressed,
    draw_labels,
    escaped,
    json_string,
    names_of,
    odd_text,
    pick,
    sentence,
)


class Value(NamedTuple):
    """A value as a file spells it, its kind, and its cell."""

    raw: str
    kind: str
    cell: Cell


def string(text: str, raw: str | None = None) -> Value:
    """A string; halves of pairs can only be escapes."""
    escaped_text = escaped(text)
    cell = Cell(escaped_text, json_string(escaped_text), escaped_text)
    return Value(json.dumps(text) if raw is None else raw, "string", cell)


def plain(raw: str, kind: str, value: Any, text: str | None = None, json_form: str | None = None) -> Value:
    """A number, true or false."""
    return Value(
        raw, kind, Cell(raw if text is None else text, raw if json_form is None else json_form, value)
    )


def nested(raw: str, strict: str | None = None) -> Value:
    """An array or object; `strict` is its form without NaN and the like."""
    strict = raw if strict is None else strict
    return Value(raw, "json", Cell(strict, strict, strict, is_json=True))


NULL = Value("null", "null", Cell("", "null"))
ABSENT = Value("", "null", Cell("", None))
TEXTS = (
    "", " ", "a", "1", "a,b", 'a "b"', "a\tb", "a\nb", "\r", "é", "\U0001f3ac", "\x00", "NaN", "null", "\\",
    "\ufeff", "\ud83d", "x" * 300, "[1]", "=1", "\u2028",
)  # fmt: skip
STRINGS = list(map(string, TEXTS))
STRINGS += [string("é/", '"\\u00e9\\/"'), string("\U0001f3ac", '"\\ud83c\\udfac"')]
SMALL = [plain(str(n), "integer", n) for n in (0, 1, -1, 10**6)]
INTEGERS = [*SMALL, *(plain(str(n), "long", n) for n in (2**53 + 1, 2**63 - 1, -(2**63)))]
HUGE = [plain(str(n), "json", str(n)) for n in (2**63, -(2**63) - 1, 10**30, int("9" * 400))]
NUMBERS = [
    plain(raw, "number", float(raw)) for raw in ("0.5", "-0.0", "1e5", "1E+2", "0.1000", "3.141592653589793")
]
NUMBERS += [
    plain("NaN", "number", float("nan"), "NaN", "null"),
    plain("Infinity", "number", float("inf"), "Infinity", '"Infinity"'),
    plain("-Infinity", "number", float("-inf"), "-Infinity", '"-Infinity"'),
]
BEYOND = [plain("1e999", "json", "1e999")]
BOOLEANS = [plain("true", "boolean", True), plain("false", "boolean", False)]
RAW = (
    "[]", "{}", '[1, "a", null, true]', '{"a": {"b": [1.50, {"c": "é"}]}}', "[[[]]]", '["a,b", "c\\n"]',
    '{"x": 12345678901234567890123, "label": "a"}', "[ 1 ,\t2 ]",
)  # fmt: skip
NESTED = list(map(nested, RAW))
NESTED += [nested('[NaN, 1, "NaN"]', '[null, 1, "NaN"]'), nested('{"a": -Infinity}', '{"a": "-Infinity"}')]
NESTED += [nested('["\\ud800"]', '["\\\\ud800"]')]
COLUMNS: Sequence[Sequence[Value]] = (
    STRINGS, STRINGS, INTEGERS, NUMBERS, [*SMALL, *NUMBERS], BOOLEANS, NESTED, HUGE, [*INTEGERS, *HUGE],
    [*STRINGS, *INTEGERS, *NUMBERS, *BOOLEANS, *NESTED, *HUGE, *BEYOND], [NULL], [*NUMBERS, *BEYOND],
)  # fmt: skip
TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}

BAD_TEXTS = (
    (NULL, "empty text"),
    (ABSENT, "empty text"),
    (string(""), "empty text"),
    (string(" \n"), "empty text"),
    (SMALL[1], "expected text"),
    (NUMBERS[0], "expected text"),
    (BOOLEANS[0], "expected text"),
    (NESTED[2], "expected text"),
    (nested('{"text": "a"}'), "expected text"),
    (nested('["a", "b"]'), "expected text"),
    (HUGE[0], "expected text"),
    (string("half \ud800"), "surrogate"),
)
BAD_LINES = (
    *((line, "expected an object") for line in ('["text"]', '"text"', "3", "null")),
    *((line, "not JSON") for line in ('{"text": "fine film"', "nope", '{"text": "a"} x', "{'text': 'a'}")),
    *((line, "not JSON") for line in ('{"text": "a",}', '{"text": a}', "{" * 3000)),
    ('{"text": "a", "text": "b"}', "key twice"),
)
BAD_ITEMS = (("3", "expected an object"), ("null", "expected an object"), ('["a"]', "expected an object"),
             ('{"text": "a", "text": "b"}', "key twice"))  # fmt: skip


def spelled(rng: Rng, values: Mapping[str, Value]) -> str:
    """An object."""
    comma, colon = pick(rng, ((", ", ": "), (",", ":"), (" , ", " : ")))
    pairs = [
        f"{json.dumps(name, ensure_ascii=False)}{colon}{value.raw}"
        for name, value in values.items()
        if value.raw
    ]
    return "{" + comma.join(pairs) + "}"


def draw_records(rng: Rng) -> tuple[list[dict[str, Value]], list[str], tuple[str | None, ...] | None]:
    """Records with a text each, the fault of each one's text, and the labels."""
    n = int(rng.integers(1, 9))
    columns = {name: pick(rng, COLUMNS) for name in (*names_of(rng), *[""] * chance(rng, 0.05))}
    written, labels = draw_labels(rng, n) if chance(rng, 0.6) else ([], None)
    as_numbers = written and all(label in ("0", "1") for label in written) and chance(rng, 0.5)
    records, faults = [], []
    for i in range(n):
        content = odd_text(rng)
        good = string(content, json.dumps(content, ensure_ascii=chance(rng, 0.5)))
        text, fault = (good, "") if chance(rng, 0.93) else pick(rng, BAD_TEXTS)
        drawn = {name: pick(rng, (*values, NULL, ABSENT)) for name, values in columns.items()}
        record = {"text": text, **drawn}
        if written:
            label = plain(written[i], "integer", int(written[i])) if as_numbers else string(written[i])
            record["label"] = pick(rng, (NULL, ABSENT)) if not written[i] and chance(rng, 0.5) else label
        if chance(rng, 0.3):
            record = {name: record[name] for name in map(str, rng.permutation(list(record)))}
        records.append(record)
        faults.append(fault)
    return records, faults, labels


def kinds_of(records: Sequence[Mapping[str, Value]]) -> tuple[tuple[str, ...], dict[str, pa.DataType]]:
    """Names of columns in order of first appearance, and their types in parquet; None for JSON in strings."""
    kinds: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.items():
            if value.raw:
                kinds.setdefault(name, set()).add(value.kind)
    types = {}
    for name, found in kinds.items():
        found = found - {"null"} or {"string"}
        found = {"integer"} if found <= {"integer", "long"} else found
        found = {"number"} if found == {"integer", "number"} else found
        types[name] = TYPES.get(found.pop()) if len(found) == 1 else None
    return tuple(kinds), types


def case_of(kind: str, name: str, content: bytes, rows: list[Row], records: list[dict[str, Value]]) -> Case:
    """A case of records, without labels."""
    columns, kinds = kinds_of(records)
    refused = None if "text" in columns else ("no column 'text'",)
    return Case(kind, {name: content}, name, tuple(rows), columns, kinds=kinds, refused=refused)


def row_of(record: Mapping[str, Value], fault: str, number: int, line: int, file: str) -> Row:
    """What is read of a record."""
    cells = {name: value.cell for name, value in record.items() if value.raw}
    text = json.loads(record["text"].raw) if record["text"].kind == "string" else ""
    return Row(cells, text, fault, line, number, file)


def lines_case(rng: Rng) -> Case:
    """JSON lines, of which some may be broken."""
    records, faults, labels = draw_records(rng)
    name = pick(rng, ("in.jsonl", "in.ndjson", "in.json"))
    is_damaged = chance(rng, 0.3)
    lines, rows, whole = [], [], []
    for record, fault in zip(records, faults, strict=True):
        if lines and chance(rng, 0.05):
            lines.append("")
        lines.append(spelled(rng, record))
        rows.append(row_of(record, fault, len(rows) + 1, len(lines), name))
        whole.append(record)
        if is_damaged and chance(rng, 0.4):
            line, reason = pick(rng, BAD_LINES)
            lines.append(line)
            rows.append(Row({}, "", reason, len(lines), len(rows) + 1, name))
    end = pick(rng, ("\n", "\r\n"))
    content = b"\xef\xbb\xbf" * chance(rng, 0.1) + (end.join(lines) + end * chance(rng, 0.8)).encode()
    packed, content = compressed(rng, name, content)
    rows = [replace(row, file=packed) for row in rows]
    kind = "damaged json lines" if is_damaged else "json lines"
    case = replace(case_of(kind, packed, content, rows, whole), labels=labels)
    is_alone = len(lines) == 1 and records[0]["text"].kind != "string"  # may be a table of another form
    return replace(case, is_free=True, refused=None) if is_alone else case


def files_case(rng: Rng) -> Case:
    """A folder of JSON lines in which a column may have other values in each file."""
    files, rows, records = dict[str, bytes](), list[Row](), list[dict[str, Value]]()
    for number in range(2):
        values, name = pick(rng, COLUMNS), f"part-{number}.jsonl"
        here = [{"text": string(sentence(rng)), "x": pick(rng, (*values, NULL))} for _ in range(3)]
        files[f"data/{name}"] = "".join(f"{spelled(rng, record)}\n" for record in here).encode()
        rows += [row_of(record, "", i, i, name) for i, record in enumerate(here, start=1)]
        records += here
    columns, kinds = kinds_of(records)
    return Case("folder of json lines", files, "data", tuple(rows), columns, kinds=kinds)


def array_case(rng: Rng) -> Case:
    """An array of objects, alone or as `{"data": [...]}`, which may be broken."""
    records, faults, labels = draw_records(rng)
    name = pick(rng, ("in.json", "in.json", "in.jsonl"))
    start, end = pick(
        rng, (("[", "]"), ('{"data": [', "]}"), ('{ "data":[', '], "version": 1}'), ("\n [", "]\n\n"))
    )
    damage = pick(rng, ("", "", "", "cut", "item", "more"))
    comma = pick(rng, (",", ",\n", "\n ,"))
    text, rows, whole, refused = start, [], [], ("",)
    for i, (record, fault) in enumerate(zip(records, faults, strict=True)):
        text += pick(rng, ("", "\n", " "))
        rows.append(row_of(record, fault, len(rows) + 1, 1 + text.count("\n"), name))
        text += spelled(rng, record)
        whole.append(record)
        if damage == "item" and chance(rng, 0.4):
            item, reason = pick(rng, BAD_ITEMS)
            text += comma
            rows.append(Row({}, "", reason, 1 + text.count("\n"), len(rows) + 1, name))
            text += item
        text += comma if i < len(records) - 1 else ""
    if damage == "cut":
        text += comma + '{"text": "never ended'
        refused = f"breaks off at line {1 + text.count(chr(10))}, row {len(rows) + 1} ", "rest cannot be read"
    elif damage == "more":
        text += end
        is_line = start[0] == "{" and "\n" not in text  # and thus the first of JSON lines
        refused = ("no column 'text'",) if is_line else ("more follows the array", "rest cannot be read")
        text += '\n[{"text": "late"}]'
    else:
        text += end
    packed, content = compressed(rng, name, text.encode())
    rows = [replace(row, file=packed) for row in rows]
    case = replace(case_of("json array", packed, content, rows, whole), labels=labels)
    case = replace(case, kind="damaged json array") if damage else case
    return replace(case, rows=(), labels=None, refused=refused) if refused[0] else case


def other_case(rng: Rng) -> Case:
    """JSON of a form that is no table of rows."""
    text = json.dumps(sentence(rng))
    content, words = pick(
        rng,
        (
            (f'{{\n  "text": {text}\n}}\n', ("one object per line",)),
            (f'{{"text": {{"0": {text}}}, "x": {{"0": 1}}}}', ("one object per line",)),
            (f'{{"version": 1, "rows": [\n{{"text": {text}}}\n]}}', ("one object per line",)),
            (f'{{"train": [{{"text": {text}}}], "test": []}}', ("one object per line", "orient='records'")),
            (f'{{"columns": ["text"], "data": [[{text}]]}}', ("one object per line", "orient='records'")),
            (f"[[{text}]]", ("one object per line", "orient='records'")),
            (f"[{text}]", ("one object per line", "orient='records'")),
            (f'{{"text": {text}}},\n' * 2, ("comma at the end of the line", "No row of in.json")),
            ("", ("empty",)),
            ("\n\n", ("empty",)),
            ("[]", ("empty",)),
            ('{"data": []}', ("empty",)),
            ('{"id": 1}\n', ("no column 'text'",)),
            (f'[\n{{"body": {text}}}]', ("no column 'text'", "--text-column")),
        ),
    )
    name = pick(rng, ("in.json", "in.jsonl"))
    return Case("json of another form", {name: content.encode()}, name, refused=words)


MAKERS = ((18, lines_case), (3, files_case), (10, array_case), (3, other_case))
