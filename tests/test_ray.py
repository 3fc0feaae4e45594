"""A cluster gives the answers of one machine, whatever dies on the way. Two nodes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cascadebert import Cascade
from cascadebert.data.columns import Columns
from cascadebert.distributed.pools import StagePool
from cascadebert.distributed.ray_data import check_room, predict_dataset
from cascadebert.errors import CascadeError, DataError
from clusters import save_cascade, two_nodes
from samples import sentences

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

ROWS = 6000
POOLS = tuple(StagePool(1, 500, 0.4) for _ in range(2))
TEXTS = sentences(ROWS, seed=11, most=12)


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    return save_cascade(make_model, tmp_path_factory.mktemp("cluster"), TEXTS)


@pytest.fixture(scope="module")
def expected(folder):
    """What one machine answers."""
    found = Cascade.from_pretrained(folder).predict(TEXTS)
    assert set(found.stages) == {1, 2}
    return list(zip(found.labels.tolist(), found.confidences.tolist(), found.stages.tolist(), strict=True))


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as made:
        yield made


def dataset(texts=TEXTS):
    """Rows with numbers, in blocks of a few hundred."""
    rows = [{"text": text, "id": i} for i, text in enumerate(texts)]
    return ray.data.from_items(rows, override_num_blocks=max(1, len(texts) // 500))


def answers(found):
    """Answers of rows in the order of their numbers."""
    rows = sorted(found, key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(len(rows)))
    return [(row["label"], row["confidence"], row["stage"]) for row in rows]


def single_rows(batches):
    """The rows of batches, each of which has an array for every column."""
    for batch in batches:
        for cells in zip(*batch.values(), strict=True):
            yield dict(zip(batch, cells, strict=True))


def workers():
    """Processes of the actors of all stages."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "StageWorker" in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_a_dataset_gets_the_answers_of_one_machine(cluster, folder, expected):
    found = predict_dataset(dataset(), folder, pools=POOLS)
    assert found.columns() == ["id", "label", "confidence", "stage", "truncated", "reason"]
    assert answers(found.take_all()) == expected


def test_planned_pools_keep_the_order_if_asked(cluster, folder, expected):
    found = predict_dataset(dataset(), folder, keep_order=True).take_all()
    assert [row["id"] for row in found] == list(range(ROWS)) and answers(found) == expected


def test_a_bad_row_is_set_aside_and_its_block_is_not(cluster, folder, expected):
    found = predict_dataset(
        dataset([*TEXTS[:700], " ", None, *TEXTS[702:900]]), folder, pools=POOLS
    ).take_all()
    bad = [row for row in found if row["reason"]]
    assert sorted(row["id"] for row in bad) == [700, 701]
    assert {row["reason"] for row in bad} == {"column 'text': empty text"}
    good = answers(found)
    assert good[:700] + good[702:] == expected[:700] + expected[702:900]


def test_killed_actors_lose_and_double_no_row(cluster, folder, expected):
    stream = iter(predict_dataset(dataset(), folder, pools=POOLS).iter_batches(batch_size=200))
    rows = [next(stream)]
    killed = workers()
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert killed
    rows += stream
    flat = [
        dict(zip(batch, cells, strict=True)) for batch in rows for cells in zip(*batch.values(), strict=True)
    ]
    assert answers(flat) == expected


def test_a_killed_node_loses_and_doubles_no_row(cluster, folder, expected):
    node = cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
    stream = iter(predict_dataset(dataset(), folder, pools=POOLS).iter_batches(batch_size=200))
    rows = [next(stream)]
    cluster.remove_node(node, allow_graceful=False)
    rows += stream
    flat = [
        dict(zip(batch, cells, strict=True)) for batch in rows for cells in zip(*batch.values(), strict=True)
    ]
    assert answers(flat) == expected


def test_actors_without_room_are_an_error_and_not_a_wait(cluster):
    with pytest.raises(CascadeError, match=r"has 0.4 CPU and 1 GPU, which an actor of stage 2 needs"):
        check_room([StagePool(1, 500, 0.4), StagePool(1, 500, 0.4, 1.0)])
    with pytest.raises(CascadeError, match="all actors need 40 CPU, and the cluster has"):
        check_room([StagePool(40, 500, 1.0)])


def test_rows_that_nothing_tells_apart_are_refused(cluster, folder):
    texts = ray.data.from_items([{"text": "a film"}])
    with pytest.raises(DataError, match="texts only, and they are not kept"):
        predict_dataset(texts, folder, pools=POOLS)
    assert predict_dataset(texts, folder, pools=POOLS, keep_order=True).count() == 1
    with pytest.raises(DataError, match="the dataset has no column 'review'"):
        predict_dataset(texts, folder, pools=POOLS, columns=Columns(text="review"))
    with pytest.raises(CascadeError, match="2 stages need as many pools"):
        predict_dataset(texts, folder, pools=POOLS[:1], keep_order=True)


def command(folder, source, output, *more):
    """A command line that predicts on the cluster, in a process of its own."""
    arguments = ["predict", str(folder), str(source), "--output", str(output), "--runner", "ray", *more]
    return [sys.executable, "-m", "cascadebert", *arguments]


def test_the_command_line_writes_what_one_machine_writes(cluster, folder, tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for number in range(2):
        rows = [{"text": text, "n": i} for i, text in enumerate(TEXTS[number * 300 : (number + 1) * 300])]
        rows[7]["text"] = " "
        (inputs / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    outputs = {}
    for runner in ("local", "ray"):
        output, rejects = tmp_path / f"{runner}.csv", tmp_path / f"{runner}-bad.csv"
        arguments = command(folder, inputs, output, "--rejects", str(rejects))
        arguments[arguments.index("ray")] = runner
        subprocess.run(arguments, check=True, env=environment, capture_output=True)
        outputs[runner] = output.read_bytes(), rejects.read_bytes()
    assert outputs["ray"] == outputs["local"] and outputs["ray"][0].count(b"\n") == 599


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text("utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_in_the_docs_run(cluster, folder, expected, tmp_path, code):
    pq.write_table(pa.table({"text": TEXTS, "id": range(ROWS)}), tmp_path / "rows.parquet")
    code = code.replace("s3://bucket/traffic/", str(tmp_path / "rows.parquet"))
    code = code.replace("s3://bucket/predictions/", str(tmp_path / "out")).replace("my-cascade", str(folder))
    exec(compile(code, "docs", "exec"), {})
    assert answers(pq.read_table(tmp_path / "out").to_pylist()) == expected


def test_a_killed_driver_goes_on_where_it_was(cluster, folder, tmp_path):
    texts = sentences(34_000, seed=12, most=6)
    source = tmp_path / "rows.csv"
    source.write_text("text\n" + "\n".join(texts) + "\n")
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    output, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    process = subprocess.Popen(command(folder, source, output), env=environment, stderr=subprocess.DEVNULL)
    report = tmp_path / "out.csv.work" / "00000000.json"
    for _ in range(6000):
        if report.is_file():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert report.is_file() and not output.exists()
    part = report.with_suffix(".csv")  # is not computed again, so what is changed in it stays
    lines = part.read_text("utf-8").splitlines(keepends=True)
    lines[1] = lines[1].replace(texts[0], "another text", 1)
    part.write_text("".join(lines), "utf-8")
    again = subprocess.run(command(folder, source, output), env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    local = command(folder, source, whole)
    local[local.index("ray")] = "local"
    subprocess.run(local, check=True, capture_output=True)
    expected = whole.read_text("utf-8").replace(f"\n{texts[0]},", "\nanother text,", 1)
    assert output.read_text("utf-8") == expected and "another text" in expected


def test_shards_and_a_cluster_are_not_combined(folder, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("text\na film\n")
    done = subprocess.run(
        command(folder, source, tmp_path / "out.csv", "--shard", "1/2"), capture_output=True, text=True
    )
    assert done.returncode == 2 and "--runner ray and --shard both divide the work" in done.stderr


def test_without_ray_the_error_says_how_to_install_it(folder, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("text\na film\n")
    hidden = "import sys; sys.modules['ray'] = None; from cascadebert.cli.app import main; main()"
    arguments = command(folder, source, tmp_path / "out.csv")[3:]
    done = subprocess.run([sys.executable, "-c", hidden, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'cascadebert[ray]'" in done.stderr
