"""One stage of a cascade in a process of its own, for rows that stream through all stages in turn.

Every row goes through every stage. One that is settled carries its answer on, with its text dropped; a stage
computes the others. Nothing is filtered and joined again, which would read the input once for each branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascadebert.data.cells import check_texts
from cascadebert.data.table import Table
from cascadebert.errors import extra
from cascadebert.inference.cascade import load_stages
from cascadebert.inference.predict_chunks import NO_TOKENS
from cascadebert.inference.predict_form import ADDED_COLUMNS, output_name
from cascadebert.inference.tokenizer import StageTokenizer
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import read_folder
from cascadebert.thresholds.routing import decide
from cascadebert.types import Bools, Floats, Ints

with extra("ray"):
    import pyarrow as pa
    import pyarrow.compute as pc

LABEL, CONFIDENCE, STAGE = ADDED_COLUMNS
REASON = "reason"  # why a row cannot be classified; null for the others
TRUNCATED = "truncated"  # the stage that answered read a part of the text only
RESULT = (LABEL, CONFIDENCE, STAGE, TRUNCATED, REASON)
EARLIER = "cascadebert_earlier"  # probabilities at the stages so far, for a learned score


class StageWorker:
    """Computes one stage for those rows of a table that no earlier stage has settled.

    The first stage adds the columns of the result, the last one drops the texts. A row that cannot be
    classified is settled by the first stage, with its reason.
    """

    def __init__(
        self, folder: str, number: int, texts: Sequence[str], engine: str = "auto", precision: str = "auto"
    ) -> None:
        path = resolve_checkpoint(folder)
        spec = read_folder(path)
        (self._stage,) = load_stages(path, spec, [spec.stages[number]], engine, precision)
        self._score, self._temperature = spec.score, spec.stages[number].temperature
        self._is_first, self._is_last = number == 0, number == len(spec.stages) - 1
        self._threshold = None if self._is_last else spec.operating_point.thresholds[number]
        self._number, self._label_names, self._input_names = number, spec.label_names, tuple(texts)
        self._tokenizers = {
            tokenizer.key: tokenizer
            for entry in spec.stages[: len(spec.stages) if self._is_first else 0]
            for tokenizer in [
                StageTokenizer(
                    path / entry.path, max_length=entry.max_length, padding_side=entry.padding_side
                )
            ]
        }

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The same rows, with the answers of this stage. Raises nothing for a bad row."""
        names = tuple(output_name(name, self._input_names, RESULT) for name in self._input_names)
        if self._is_first:
            rows = self._with_result_columns(rows, names)
        pending = np.flatnonzero((rows[STAGE].to_numpy() == 0) & pc.is_null(rows[REASON]).to_numpy())
        if len(pending):
            rows = self._answer(rows, names, pending)
        return self._without_texts(rows, names) if self._is_last else rows

    def _with_result_columns(self, rows: pa.Table, names: Sequence[str]) -> pa.Table:
        taken = [output_name(name, rows.column_names, RESULT) for name in rows.column_names]
        rows, count = rows.rename_columns(taken), len(rows)
        problems = self._problems(rows, names)
        columns = {
            LABEL: np.full(count, -1, np.int32),
            CONFIDENCE: np.full(count, np.nan),
            STAGE: np.zeros(count, np.int64),
            TRUNCATED: np.zeros(count, np.bool_),
            REASON: pa.array([problems.get(i) for i in range(count)], pa.string()),
        }
        if self._score.weights:
            columns[EARLIER] = pa.array([[]] * count, pa.list_(pa.float64()))
        for name, cells in columns.items():
            rows = rows.append_column(name, pa.array(cells))
        return rows

    def _problems(self, rows: pa.Table, names: Sequence[str]) -> dict[int, str]:
        texts, valid, problems = check_texts(_table(rows, names), names)
        empty = {i for tokenizer in self._tokenizers.values() for i in tokenizer.without_tokens(texts)}
        return problems | {valid[i]: NO_TOKENS for i in empty}

    def _answer(self, rows: pa.Table, names: Sequence[str], pending: Ints) -> pa.Table:
        texts, _, _ = check_texts(_table(rows.take(pending), names), names)
        places = {text: i for i, text in enumerate(dict.fromkeys(texts))}  # equal texts are computed once
        earlier = (
            _earlier(rows, pending, len(self._label_names))
            if self._score.weights and not self._is_first
            else []
        )
        index = np.array([places[text] for text in texts])
        first = np.unique(index, return_index=True)[1]
        tokens = self._stage.encode(list(places))
        decision = decide(
            self._stage.logits(tokens),
            temperature=self._temperature,
            score=self._score,
            threshold=self._threshold,
            earlier=[array[first] for array in earlier],
        )
        exits = decision.exits[index]
        settled, taken = pending[exits], index[exits]
        answers = {
            LABEL: decision.probabilities.argmax(axis=1)[taken],
            CONFIDENCE: decision.confidences[taken],
            STAGE: np.full(len(taken), self._number + 1),
            TRUNCATED: tokens.truncated[taken],
        }
        for name, values in answers.items():
            cells = rows[name].to_numpy().copy()
            cells[settled] = values
            rows = _replaced(rows, name, pa.array(cells))
        if self._score.weights and not self._is_last:
            rows = _with_earlier(rows, pending, [*earlier, decision.probabilities[index]])
        return _dropped(rows, names, settled)

    def _without_texts(self, rows: pa.Table, names: Sequence[str]) -> pa.Table:
        labels, bad = rows[LABEL].to_numpy(), pc.is_valid(rows[REASON]).to_numpy()
        found = np.asarray(self._label_names, dtype=object)[labels]
        rows = _replaced(rows, LABEL, pa.array(found, pa.string(), mask=bad))
        rows = _replaced(rows, CONFIDENCE, pa.array(rows[CONFIDENCE].to_numpy(), mask=bad))
        rows = _replaced(rows, STAGE, pa.array(rows[STAGE].to_numpy(), mask=bad))
        return rows.drop_columns([name for name in (*names, EARLIER) if name in rows.column_names])


def _table(rows: pa.Table, names: Sequence[str]) -> Table:
    return Table({name: rows[name] for name in names if name in rows.column_names}, "the dataset")


def _replaced(rows: pa.Table, name: str, cells: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, cells)


def _dropped(rows: pa.Table, names: Sequence[str], settled: Ints) -> pa.Table:
    """The rows without the texts of those that are settled."""
    kept: Bools = np.ones(len(rows), np.bool_)
    kept[settled] = False
    for name in names:
        cells = pc.if_else(pa.array(kept), rows[name], pa.scalar(None, rows[name].type))
        rows = _replaced(rows, name, cells)
    return rows


def _earlier(rows: pa.Table, pending: Ints, labels: int) -> list[Floats]:
    """(m, num_labels) probabilities of the pending rows at each stage so far."""
    cells = rows[EARLIER].take(pa.array(pending)).combine_chunks()
    flat = cells.flatten().to_numpy().reshape(len(pending), -1, labels)
    return [flat[:, stage] for stage in range(flat.shape[1])]


def _with_earlier(rows: pa.Table, pending: Ints, probabilities: Sequence[Floats]) -> pa.Table:
    cells = np.full(len(rows), None, dtype=object)
    for place, values in zip(pending.tolist(), np.concatenate(probabilities, axis=1), strict=True):
        cells[place] = values
    return _replaced(rows, EARLIER, pa.array(cells, pa.list_(pa.float64())))
