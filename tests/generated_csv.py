"""Generated csv, tsv and txt files."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from generated import (
    CELLS,
    Case,
    Rng,
    Row,
    chance,
    compressed,
    draw_labels,
    lines_in,
    names_of,
    odd_text,
    pick,
    sentence,
    text_cell,
    zstd,
)


@dataclass(frozen=True)
class Sheet:
    """A table of strings with a header; a row has a fault if its text is bad."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: int  # position of the texts
    labels: tuple[str | None, ...] | None

    def row(self, number: int, line: int, *, file: str, encoding: str = "utf-8") -> Row:
        """What is read of a row that is written in an encoding but read as UTF-8."""
        cells = [misread(cell, encoding) for cell in self.rows[number]]
        text = cells[self.text]
        fault, more = ("empty text", "") if not text.strip() else ("", "")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            fault, more = "UTF-8", "--encoding"
        named = {misread(n, encoding): text_cell(c) for n, c in zip(self.names, cells, strict=True)}
        return Row(named, text, fault, line, number + 1, file, more)


def misread(text: str, encoding: str) -> str:
    """Text that is written in an encoding and read as UTF-8."""
    return text.encode(encoding, "replace").decode("utf-8", "surrogateescape")


def draw_sheet(rng: Rng, *, cells: Sequence[str] = CELLS, plain: bool = False, most: int = 9) -> Sheet:
    """A table with texts and perhaps labels among other columns."""
    n = int(rng.integers(1, most))
    texts = [sentence(rng) if plain else odd_text(rng) for _ in range(n)]
    if chance(rng, 0.25):
        texts[int(rng.integers(n))] = pick(rng, ("", " ", "\u00a0"))
    columns = {name: [pick(rng, cells) for _ in range(n)] for name in names_of(rng)}
    columns[pick(rng, ("text", "text", "text", "Text", "TEXT", "sentence"))] = texts
    labels = None
    if chance(rng, 0.6):
        written, labels = draw_labels(rng, n)
        columns[pick(rng, ("label", "label", "label", "Label"))] = written
    order = [str(name) for name in rng.permutation(list(columns))]
    rows = tuple(zip(*(columns[name] for name in order), strict=True))
    if len(order) > 1 and not any(rows[-1]):  # at the end, such a row is none
        return draw_sheet(rng, cells=cells, plain=plain, most=most)
    return Sheet(
        tuple(order), rows, next(i for i, name in enumerate(order) if columns[name] is texts), labels
    )


def written(rng: Rng, cells: Sequence[str], delimiter: str, style: str) -> str:
    """A row of csv without its line break."""

    def form(cell: str) -> str:
        needed = any(letter in cell for letter in (delimiter, '"', "\r", "\n")) or cell.startswith("\ufeff")
        quoted = needed or style == "all" or (style == "some" and chance(rng, 0.4))
        return '"' + cell.replace('"', '""') + '"' if quoted else cell

    line = delimiter.join(map(form, cells))
    return line or '""'


def csv_case(rng: Rng) -> Case:
    """A well-formed csv file, as spreadsheets and libraries write them."""
    sheet = draw_sheet(rng)
    delimiter = pick(rng, ",,;\t|") if len(sheet.names) > 1 else ","
    style, end = pick(rng, ("needed", "all", "some")), pick(rng, ("\n", "\n", "\r\n", "\r\n", "\r"))
    options: tuple[str, ...] = ()
    if chance(rng, 0.2):
        options = ("--delimiter", r"\t" if delimiter == "\t" else delimiter)
    blank = delimiter * (int(rng.integers(1, 3)) if len(sheet.names) > 1 and chance(rng, 0.15) else 0)
    lines = [f"sep={delimiter}"] if chance(rng, 0.1) and not options else []
    lines.append(written(rng, sheet.names, delimiter, style) + blank)
    rows = []
    for number, cells in enumerate(sheet.rows):
        line = 1 + sum(1 + lines_in(above) for above in lines)
        rows.append(sheet.row(number, line, file="in.csv"))
        lines.append(written(rng, cells, delimiter, style) + blank)
        if chance(rng, 0.05):
            lines.append("")
    if chance(rng, 0.15) and len(sheet.names) > 1:
        lines += [delimiter * (len(sheet.names) - 1) + blank] * int(rng.integers(1, 3))
    text = end.join(lines) + end * chance(rng, 0.8)
    marks = b"\xef\xbb\xbf" * pick(rng, (0, 0, 0, 1, 2))
    stem = pick(rng, ("in", "in", "in put", "[in]", "größe", "a*b", "in.tsv"))
    name, content = compressed(rng, f"{stem}.{pick(rng, ('csv', 'CSV'))}", marks + text.encode())
    rows = [replace(row, file=name) for row in rows]
    is_said = delimiter != "," and not options and not lines[0].startswith("sep=")
    says = ("tabs" if delimiter == "\t" else f"'{delimiter}'",) if is_said else ()
    return Case(
        "csv", {name: content}, name, tuple(rows), sheet.names, options, labels=sheet.labels, says=says
    )


def tsv_case(rng: Rng) -> Case:
    """A tsv file, in which a quotation mark is text."""
    cells = [cell for cell in CELLS if not set(cell) & set("\t\r\n")]
    sheet = draw_sheet(rng, cells=cells, plain=True)
    rows = [
        [cell + pick(rng, ("", '"', "'")) if cell.strip() else cell for cell in row] for row in sheet.rows
    ]
    if sheet.labels is not None:
        place = next(i for i, name in enumerate(sheet.names) if name in ("label", "Label"))
        rows = [
            [*row[:place], old[place], *row[place + 1 :]] for row, old in zip(rows, sheet.rows, strict=True)
        ]
    sheet = replace(sheet, rows=tuple(map(tuple, rows)))
    lines = ["\t".join(row) for row in (sheet.names, *sheet.rows)]
    content = "".join(f"{line}\n" for line in lines).encode()
    name, content = compressed(rng, "in.tsv", content)
    found = tuple(sheet.row(i, i + 2, file=name) for i in range(len(rows)))
    return Case("tsv", {name: content}, name, found, sheet.names, labels=sheet.labels)


def encoded_case(rng: Rng) -> Case:
    """A csv file in another encoding, named or not."""
    cells = ("é", "x", "1", "", "naïve", "Ü")
    sheet = draw_sheet(rng, cells=cells, plain=True)
    rows = [list(row) for row in sheet.rows]
    for row in rows:
        if row[sheet.text].strip() and chance(rng, 0.5):
            row[sheet.text] += pick(rng, (" é", " déjà vu", " ü"))
    sheet = replace(sheet, rows=tuple(map(tuple, rows)))
    encoding = pick(rng, ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig"))
    is_named = chance(rng, 0.6)
    options = (
        ("--encoding", "utf-8" if encoding == "utf-8-sig" and chance(rng, 0.5) else encoding)
        if is_named
        else ()
    )
    text = "".join(",".join(row) + "\n" for row in (sheet.names, *sheet.rows))
    if len(sheet.names) == 1:
        text = "".join((row[0] or '""') + "\n" for row in (sheet.names, *sheet.rows))
    case = Case("csv in another encoding", {"in.csv": text.encode(encoding)}, "in.csv", options=options)
    if encoding.startswith("utf-16") and not is_named:
        return replace(case, refused=("UTF-16", "--encoding"))
    as_read = "utf-8" if is_named or encoding == "utf-8-sig" else encoding
    found = tuple(sheet.row(i, i + 2, file="in.csv", encoding=as_read) for i in range(len(rows)))
    columns = tuple(misread(name, as_read) for name in sheet.names)
    return replace(case, rows=found, columns=columns, labels=sheet.labels)


DAMAGES: dict[str, tuple[Callable[[Sequence[str], int], str], str]] = {
    "open quote": (
        lambda cells, text: ",".join([*cells[:text], f'"{cells[text]}', *cells[text + 1 :]]),
        "quotation",
    ),
    "misquoted": (
        lambda cells, text: ",".join([*cells[:text], f'"{cells[text]}" and', *cells[text + 1 :]]),
        "quotation",
    ),
    "too many cells": (lambda cells, text: ",".join([*cells, "more"]), "cells"),
    "too few cells": (lambda cells, text: ",".join(cells[:-1]) or "x", "cell"),
    "cut": (lambda cells, text: cells[0][:1] or "x", "cell"),
}


def damaged_case(rng: Rng) -> Case:
    """A csv file with broken rows, the others of which are read."""
    sheet = draw_sheet(rng, cells=("x", "1", "é", "a b"), plain=True, most=12)
    if len(sheet.names) == 1:
        return csv_case(rng)
    lines, rows = [",".join(sheet.names)], []
    for number, cells in enumerate(sheet.rows):
        row = sheet.row(number, number + 2, file="in.csv")
        if chance(rng, 0.3):
            damage, word = DAMAGES[pick(rng, list(DAMAGES))]
            lines.append(damage(cells, sheet.text))
            rows.append(replace(row, cells={}, fault=word))
        else:
            lines.append(",".join(cells) if chance(rng, 0.5) else ",".join(f'"{cell}"' for cell in cells))
            rows.append(row)
    content = ("\n".join(lines) + "\n" * chance(rng, 0.7)).encode()
    return Case("damaged csv", {"in.csv": content}, "in.csv", tuple(rows), sheet.names, labels=sheet.labels)


def header_case(rng: Rng) -> Case:
    """A csv file with names that are empty, repeated or missing."""
    n = int(rng.integers(1, 6))
    texts = [sentence(rng) for _ in range(n)]
    forms: dict[str, tuple[str, tuple[str, ...] | None, Callable[[int], list[str]]]] = {
        "index": (",text,x", ("", "text", "x"), lambda i: [str(i), texts[i], "a"]),
        "repeated": ("x,text,x,x", ("x", "text", "x.1", "x.2"), lambda i: [f"a{i}", texts[i], "b", "c"]),
        "repeated text": ("text,text,x", None, lambda i: [texts[i], "b", "c"]),
        "two cases": ("Text,text,x", ("Text", "text", "x"), lambda i: ["other", texts[i], "c"]),
        "nameless end": ("text,x,,", ("text", "x"), lambda i: [texts[i], "a", "", ""]),
        "open quote": ('"text,x', None, lambda i: [texts[i], "a"]),
        "no text": ("id,x", None, lambda i: [texts[i], "a"]),
        "named": ("id,body", ("id", "body"), lambda i: [str(i), texts[i]]),
        "repeated label": ("label,text,label", ("label", "text", "label.1"), lambda i: ["a", texts[i], "b"]),
        "quoted": ('"text","a,b"', ("text", "a,b"), lambda i: [texts[i], "a"]),
    }
    kind = pick(rng, list(forms))
    header, columns, cells = forms[kind]
    content = "\n".join([header, *(",".join(cells(i)) for i in range(n)), ""]).encode()
    options = ("--text-column", "body") if kind == "named" else ()
    case = Case("header of csv", {"in.csv": content}, "in.csv", options=options)
    if columns is None:
        words = {"repeated text": ("'text'",), "open quote": ("header", "quotation mark is not closed")}
        return replace(case, refused=words.get(kind, ("no column 'text'", "--text-column")))
    rows = []
    for i in range(n):
        named = dict(zip(columns, map(text_cell, cells(i)), strict=False))
        rows.append(Row(named, texts[i], "", i + 2, i + 1, "in.csv"))
    return replace(case, rows=tuple(rows), columns=columns)


def long_case(rng: Rng) -> Case:
    """Texts of which some are longer than any stage reads, which is said, or makes them bad rows."""
    lengths = [pick(rng, (5, 20, 200, 3000)) for _ in range(int(rng.integers(1, 6)))]
    texts = [" ".join(["fine film"] * length) for length in lengths]
    is_cut = chance(rng, 0.5)
    faults = ["" if is_cut or length <= 20 else "more tokens" for length in lengths]
    content = "".join(f"{text}\n" for text in ("text", *texts)).encode()
    rows = tuple(
        Row({"text": text_cell(text)}, text, fault, i + 1, i, "in.csv")
        for i, (text, fault) in enumerate(zip(texts, faults, strict=True), start=1)
    )
    case = Case("long texts", {"in.csv": content}, "in.csv", rows, ("text",))
    if is_cut:
        cut = sum(length > 20 for length in lengths)
        return replace(case, says=(f"{cut} of {len(lengths)} texts",) if cut else ())
    return replace(case, predict_options=("--no-truncate",))


def txt_case(rng: Rng) -> Case:
    """A text on each line."""
    lines = [
        pick(rng, ("", "  ", "\t")) if chance(rng, 0.2) else sentence(rng)
        for _ in range(int(rng.integers(1, 9)))
    ]
    lines = [
        line + pick(rng, ("", ', "so', " é", "\u2028x", "\x0bx", " ")) if line.strip() else line
        for line in lines
    ]
    end = pick(rng, ("\n", "\r\n"))
    name, content = compressed(rng, "in.txt", (end.join(lines) + end * chance(rng, 0.7)).encode())
    found = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    rows = tuple(
        Row({"text": text_cell(line)}, line, "", i, number, name) for number, (i, line) in enumerate(found, 1)
    )
    refused = None if rows else ("empty",)
    return Case("txt", {name: content}, name, rows, ("text",), refused=refused)


def cut_case(rng: Rng) -> Case:
    """A compressed file that ends too early."""
    content = ("text,x\n" + "".join(f"{sentence(rng)},{i}\n" for i in range(40))).encode()
    pack, ending = pick(rng, ((gzip.compress, "gz"), (zstd, "zst")))
    packed = pack(content)
    cut = packed[: int(rng.integers(5, len(packed) - 8))] if chance(rng, 0.7) else packed + b"and more"
    return Case(
        "cut compressed file", {f"in.csv.{ending}": cut}, f"in.csv.{ending}", refused=("cannot be read",)
    )


MAKERS = (
    (18, csv_case),
    (6, tsv_case),
    (8, encoded_case),
    (10, damaged_case),
    (4, header_case),
    (2, long_case),
    (4, txt_case),
    (2, cut_case),
)
