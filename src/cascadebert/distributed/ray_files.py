"""`predict --runner ray`: the answers to the chunks of an input come from a Ray cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from cascadebert.data.cells import check_texts
from cascadebert.data.readers import Layout, read_chunks
from cascadebert.data.table import Chunk
from cascadebert.distributed.ray_data import plan_pools, through_stages
from cascadebert.distributed.stage_worker import CONFIDENCE, LABEL, REASON, STAGE, TRUNCATED
from cascadebert.errors import CascadeError, extra
from cascadebert.inference.predict_chunks import TOO_LONG, ChunkAnswers, PredictRun

with extra("ray"):
    import pyarrow as pa
    import ray

FILE, CHUNK, POSITION = (f"cascadebert_{name}" for name in ("file", "chunk", "position"))
Key = tuple[int, int]  # a file, and a chunk in it


class RayAnswers:
    """Answers to the chunks of an input, computed on a Ray cluster while earlier ones are written here.

    Each file is read by a task of its own, and once more by this process, which writes the output. What comes
    before the first chunk that is asked for is not computed. The input and the cascade must have the same
    paths on all nodes.
    """

    def __init__(self) -> None:
        self._rows: Iterator[tuple[Key, pa.Table]] | None = None
        self._begun = defaultdict[Key, list[pa.Table]](list)

    def __call__(self, run: PredictRun, layout: Layout, chunk: Chunk) -> ChunkAnswers:
        """Answers to a chunk. Raises CascadeError if the nodes read other rows than this process."""
        key = _key(layout, chunk)
        if self._rows is None:
            self._rows = _answered_rows(run, layout, key)
        _, valid, problems = check_texts(chunk.table, run.form.text_columns)
        while sum(map(len, self._begun[key])) < len(valid):
            other, part = next(self._rows, (None, None))
            if other is None:
                raise _differs(chunk)
            self._begun[other].append(part)
        parts = self._begun.pop(key)
        if not parts:
            none = np.zeros(0, np.int64)
            return ChunkAnswers(none, [], none.astype(np.float64), none, none.astype(np.bool_), problems)
        found = pa.concat_tables(parts).sort_by(POSITION)
        if found[POSITION].to_pylist() != valid:
            raise _differs(chunk)
        return _answers(found, problems, truncate=run.truncate)


def _differs(chunk: Chunk) -> CascadeError:
    return CascadeError(f"{chunk.table.source} is not the same on all nodes. Give a path that they share.")


def _key(layout: Layout, chunk: Chunk) -> Key:
    """The file of a chunk, and the number of its first row, which tells it from others of the file."""
    names = [file.file.name for file in layout.files]
    first = min(chunk.numbers[:1] + [fault.row for fault in chunk.bad[:1]])
    return names.index(chunk.table.source), first


def _answered_rows(run: PredictRun, layout: Layout, start: Key) -> Iterator[tuple[Key, pa.Table]]:
    """Answered rows of the chunks from `start` on, by chunk."""
    cascade, names = run.cascade, run.form.text_columns
    saved = None if cascade.spec is None else cascade.spec.operating_point
    if cascade.path is None or cascade.spec is None or cascade.operating_point != saved:
        raise CascadeError("a cluster runs cascades as they are saved: use save_pretrained first")
    engine = cascade.stages[-1].engine
    files = [{FILE: number} for number in range(start[0], len(layout.files))]
    rows = ray.data.from_items(files, override_num_blocks=len(files))
    rows = rows.map_batches(_Reader(layout, names, start), batch_size=1, batch_format="pyarrow")
    settings = str(cascade.path), _text_names(names), engine.name, engine.precision
    answered = through_stages(rows, plan_pools(cascade.spec), *settings, keep_order=True)
    for table in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
        places = np.stack([table[FILE].to_numpy(), table[CHUNK].to_numpy()])
        ends = [*np.flatnonzero((np.diff(places) != 0).any(axis=0)) + 1, len(table)]
        for begin, end in pairwise([0, *ends]):
            if end > begin:
                yield (int(places[0, begin]), int(places[1, begin])), table.slice(begin, end - begin)


class _Reader:
    """Reads a file, and gives the valid texts of its chunks with their places."""

    def __init__(self, layout: Layout, names: Sequence[str], start: Key) -> None:
        self._layout, self._names, self._start = layout, names, start

    def __call__(self, files: pa.Table) -> Iterator[pa.Table]:
        (number,) = files[FILE].to_pylist()
        layout = replace(self._layout, files=(self._layout.files[number],))
        for chunk in read_chunks(layout, needed=self._names):
            key = (number, _key(layout, chunk)[1])
            if key < self._start:
                continue
            texts, valid, _ = check_texts(chunk.table, self._names)
            rows = [(text,) if isinstance(text, str) else text for text in texts]
            places = {FILE: [number] * len(valid), CHUNK: [key[1]] * len(valid), POSITION: valid}
            arrays = {name: pa.array(cells, pa.int64()) for name, cells in places.items()}
            for i, name in enumerate(_text_names(self._names)):
                arrays[name] = pa.array([parts[i] for parts in rows], pa.large_string())
            yield pa.table(arrays)


def _text_names(names: Sequence[str]) -> list[str]:
    return [f"text{number}" for number in range(len(names))]


def _answers(found: pa.Table, problems: dict[int, str], *, truncate: bool) -> ChunkAnswers:
    """The answers to a chunk from its rows that were valid here."""
    positions, reasons = found[POSITION].to_pylist(), found[REASON].to_pylist()
    problems |= {place: reason for place, reason in zip(positions, reasons, strict=True) if reason}
    if not truncate:
        cut = found[TRUNCATED].to_pylist()
        problems |= {place: TOO_LONG for place, long in zip(positions, cut, strict=True) if long}
    kept = found.filter(pa.array([place not in problems for place in positions]))
    return ChunkAnswers(
        rows=kept[POSITION].to_numpy(),
        labels=kept[LABEL].to_pylist(),
        confidences=kept[CONFIDENCE].to_numpy(),
        stages=kept[STAGE].to_numpy(),
        truncated=kept[TRUNCATED].to_numpy(),
        problems=problems,
    )
