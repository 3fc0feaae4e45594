"""Scoring so many rows on Ray Data that the driver may die: two jobs with checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascadebert.data.columns import Columns
from cascadebert.distributed.pools import StagePool
from cascadebert.distributed.ray_data import DATASET, check_dataset, check_pools, through_stages
from cascadebert.distributed.stage_worker import RESULT
from cascadebert.errors import CascadeError, DataError, extra
from cascadebert.persistence.checkpoint_config import resolve_checkpoint
from cascadebert.persistence.folder import SPEC_FILE

with extra("ray"):
    import pyarrow.fs as pa_fs
    import ray
    from ray.data import Dataset
    from ray.data.checkpoint import CheckpointConfig

COVERED = {"Read", "ReadFiles", "MapBatches", "MapRows", "Filter", "Project"}
"""Steps between a file and the answers at which every row keeps its id, as Ray's checkpoints need."""
EARLY, ALL = "early stages", "all stages"  # what is done
FILTERS = 1  # processors that Ray takes to leave out the rows of checkpoints
_STATE = "job.json"


def write_predictions(
    dataset: Dataset,
    folder: str | Path,
    output: str | Path,
    *,
    id_column: str,
    columns: Columns | None = None,
    pools: Sequence[StagePool] | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> None:
    """Predict the rows of a Ray dataset and write parquet files; the same call goes on after a kill.

    One job computes all stages but the last one, and writes to `OUTPUT.work` what it settled and what is
    left. The other one computes the last stage for what is left, and writes everything to `output`. Each of
    them goes on after the rows that it has written, by Ray's checkpoints.

    Args:
        dataset: rows that Ray reads from files, at most filtered and mapped.
        folder: as in `predict_dataset`.
        output: a new folder that all nodes share, or the URL of one that pyarrow can write.
        id_column: column of the dataset whose values are all different; it is not checked that they are.
        columns: as in `predict_dataset`.
        pools: as in `predict_dataset`.
        engine: as in `Cascade.from_pretrained`.
        precision: as in `Cascade.from_pretrained`.

    Raises:
        DataError: if a text column or the id column is missing, or checkpoints do not cover the dataset.
        CascadeError: if the cluster has no room for the actors, the output exists, or `OUTPUT.work` is the
            work of a call with other arguments.
    """
    spec, texts = check_dataset(dataset, folder, columns)
    _check_covered(dataset, id_column)
    pools = check_pools(spec, pools, others=FILTERS)
    cascade = (resolve_checkpoint(folder) / SPEC_FILE).read_bytes()
    work = _Work(
        output,
        {
            "folder": hashlib.sha256(cascade).hexdigest(),
            "id_column": id_column,
            "columns": list(texts),
            "engine": engine,
            "precision": precision,
        },
    )
    last, settings = len(pools) - 1, (str(folder), texts, engine, precision)
    if last and not work.is_done(EARLY):
        early = through_stages(dataset, pools[:last], *settings)
        _write(early, work.url(EARLY), work.url(f"checkpoints of {EARLY}"), id_column)
        work.finish(EARLY)
    if not work.is_done(ALL):
        left = ray.data.read_parquet(work.url(EARLY)) if last else dataset
        answered = through_stages(left, pools[last:], *settings, first=last)
        _write(answered, work.output, work.url(f"checkpoints of {ALL}"), id_column)
        work.finish(ALL)
    work.remove()


def _check_covered(dataset: Dataset, id_column: str) -> None:
    """Check that checkpoints cover a dataset; Ray itself goes on without them. Raises DataError."""
    if id_column not in (dataset.columns() or []):
        raise DataError(f"{DATASET} has no column {id_column!r} of ids")
    if id_column in RESULT:
        raise DataError(
            f"the column of ids cannot be {id_column!r}, which is the name of an answer. Rename it."
        )
    steps = [dataset._logical_plan.dag]
    while steps:
        step = steps.pop()
        name = type(step).__name__
        if name not in COVERED:
            raise DataError(
                f"Ray's checkpoints do not cover {DATASET}: it goes through {name}. Write it to files first "
                "and give what reads them, or use predict_dataset, which starts anew after a kill."
            )
        steps += [] if name.startswith("Read") else step.input_dependencies


def _write(rows: Dataset, folder: str, checkpoints: str, id_column: str) -> None:
    """Write rows to a folder, but for those that its checkpoints name."""
    context = rows.context  # that of the caller's dataset too
    before = context.checkpoint_config
    context.checkpoint_config = CheckpointConfig(id_column, checkpoints, delete_checkpoint_on_success=False)
    try:
        rows.write_parquet(folder)
    finally:
        context.checkpoint_config = before


class _Work:
    """The folder `OUTPUT.work`: what is done of a job, and its files until everything is."""

    def __init__(self, output: str | Path, options: Mapping[str, Any]) -> None:
        """Begin, or go on. Raises CascadeError as `write_predictions`."""
        self.output = (str(output) if "://" in str(output) else str(Path(output).absolute())).rstrip("/")
        self._system, self._path = pa_fs.FileSystem.from_uri(f"{self.output}.work")
        self._state = self._read()
        if not self._state:
            if self._system.get_file_info(self._path.removesuffix(".work")).type != pa_fs.FileType.NotFound:
                raise CascadeError(f"{output} exists already. Choose another output, or remove it.")
            self._state = {"options": dict(options), "done": []}
            self._store()
        before = self._state["options"]
        if differing := [name for name in options if before.get(name) != options[name]]:
            raise CascadeError(
                f"{self.output}.work is unfinished work with another {' and '.join(differing)}. Give the "
                "same arguments to resume it, remove the folder to start afresh, or choose another output."
            )

    def url(self, name: str) -> str:
        """The place of a folder of the work."""
        return f"{self.output}.work/{name.replace(' ', '-')}"

    def is_done(self, what: str) -> bool:
        """True if a job ended."""
        return what in self._state["done"]

    def finish(self, what: str) -> None:
        """Remember that a job ended."""
        self._state["done"].append(what)
        self._store()

    def remove(self) -> None:
        """Remove the folder; last of all what tells that everything is done."""
        for entry in self._system.get_file_info(pa_fs.FileSelector(self._path)):
            if entry.type == pa_fs.FileType.Directory:
                self._system.delete_dir(entry.path)
        self._system.delete_dir(self._path)

    def _read(self) -> dict[str, Any]:
        file = f"{self._path}/{_STATE}"
        if self._system.get_file_info(file).type == pa_fs.FileType.NotFound:
            return {}
        with self._system.open_input_stream(file) as stream:
            found: dict[str, Any] = json.loads(stream.read())
        return found

    def _store(self) -> None:
        self._system.create_dir(self._path, recursive=True)
        file = f"{self._path}/{_STATE}"
        with self._system.open_output_stream(f"{file}.new") as stream:
            stream.write(json.dumps(self._state).encode())
        self._system.move(f"{file}.new", file)
