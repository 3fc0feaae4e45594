"""Two jobs with checkpoints give the rows of one stream, whenever the driver dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray")

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cascadebert import Cascade
from cascadebert.distributed.ray_jobs import write_predictions
from cascadebert.errors import CascadeError, DataError
from clusters import save_cascade, two_nodes
from samples import sentences

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

FILES, EACH = 12, 250
TEXTS = sentences(FILES * EACH, seed=13, most=12)
DRIVER = """
import sys, ray
from cascadebert.distributed.ray_jobs import write_predictions
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
write_predictions(ray.data.read_parquet(sys.argv[2]), sys.argv[3], sys.argv[4], id_column="id")
"""


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    return save_cascade(make_model, tmp_path_factory.mktemp("cluster"), TEXTS)


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as made:
        yield made


@pytest.fixture
def rows(tmp_path):
    """A folder of files of rows, one of which has no text."""
    (tmp_path / "rows").mkdir()
    texts = [*TEXTS[:-1], " "]
    for number in range(FILES):
        ids = range(number * EACH, (number + 1) * EACH)
        table = pa.table({"text": [texts[i] for i in ids], "id": ids})
        pq.write_table(table, tmp_path / "rows" / f"{number:02d}.parquet")
    return tmp_path / "rows"


def check(output, folder):
    """Check that the rows are all there, once each, with the answers of one machine; and no work is left."""
    found = sorted(pq.read_table(output).to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in found] == list(range(len(TEXTS)))
    assert found.pop() == {**dict.fromkeys(found[0]), "id": len(TEXTS) - 1, "truncated": False} | {
        "reason": "column 'text': empty text"
    }
    expected = Cascade.from_pretrained(folder).predict(TEXTS[:-1])
    columns = expected.labels.tolist(), expected.confidences.tolist(), expected.stages.tolist()
    assert [(row["label"], row["confidence"], row["stage"]) for row in found] == list(
        zip(*columns, strict=True)
    )
    assert sorted(found[0]) == ["confidence", "id", "label", "reason", "stage", "truncated"]
    assert not output.with_name(f"{output.name}.work").exists()


def kill_after(process, folder):
    """Kill a driver once it has written a checkpoint to a folder."""
    for _ in range(12_000):
        if any(folder.glob("*.parquet")) or process.poll() is not None:
            break
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_two_jobs_write_every_row_once_though_the_driver_dies_in_each(cluster, folder, rows, tmp_path):
    output, work = tmp_path / "out", tmp_path / "out.work"
    arguments = [sys.executable, "-c", DRIVER, cluster.address, str(rows), str(folder), str(output)]
    for stages in ("early-stages", "all-stages"):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        kill_after(process, work / f"checkpoints-of-{stages}")
    assert len(pq.read_table(work / "early-stages")) >= len(TEXTS)
    dataset = ray.data.read_parquet(str(rows))
    with pytest.raises(CascadeError, match=r"out.work is unfinished work with another precision\. Give"):
        write_predictions(dataset, folder, output, id_column="id", precision="float32")
    write_predictions(dataset, folder, output, id_column="id")
    check(output, folder)
    with pytest.raises(CascadeError, match="out exists already"):
        write_predictions(dataset, folder, output, id_column="id")


def test_the_work_of_a_finished_job_is_only_removed(cluster, folder, rows, tmp_path, monkeypatch):
    output, dataset = tmp_path / "out", ray.data.read_parquet(str(rows))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cascadebert.distributed.ray_jobs._Work.remove", _interrupt)
        write_predictions(dataset, folder, output, id_column="id")
    before = sorted(path.name for path in output.iterdir())
    write_predictions(dataset, folder, output, id_column="id")
    assert sorted(path.name for path in output.iterdir()) == before
    check(output, folder)
    assert dataset.context.checkpoint_config is None


def _interrupt(_work):
    raise KeyboardInterrupt


def test_what_checkpoints_do_not_cover_is_refused(cluster, folder, rows, tmp_path):
    read, output = ray.data.read_parquet(str(rows)), tmp_path / "out"
    for dataset, step in (
        (ray.data.from_items([{"text": "a film", "id": 1}]), "FromItems"),
        (read.sort("id"), "Sort"),
        (read.limit(10), "Limit"),
        (read.union(read), "Union"),
    ):
        with pytest.raises(DataError, match=f"checkpoints do not cover the dataset: it goes through {step}"):
            write_predictions(dataset, folder, output, id_column="id")
    with pytest.raises(DataError, match="no column 'number' of ids"):
        write_predictions(read, folder, output, id_column="number")
    renamed = read.rename_columns({"id": "label"})
    with pytest.raises(DataError, match="cannot be 'label', which is the name of an answer"):
        write_predictions(renamed, folder, output, id_column="label")
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
