"""Files at URLs are read and written like those of this machine; another machine can go on with the work."""

from __future__ import annotations

import csv
import gzip
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascadebert import Cascade, CascadeError
from cascadebert.data.dataset import load_examples
from cascadebert.data.readers import read_table
from cascadebert.errors import DataError, MissingExtra
from cascadebert.inference.predict_file import predict_file
from cascadebert.inference.shard import Shard
from cascadebert.remote_files import list_files, open_file, remote_url
from samples import sentences

TEXTS = sentences(100, seed=3)
URL = "memory://bucket"


@pytest.fixture
def bucket(tmp_path):
    """Files of this machine copied to a storage that begins empty: `put("a/in.csv")` gives its URL."""
    system = fsspec.filesystem("memory")

    def put(name: str, file: Path) -> Path:
        system.makedirs(f"/bucket/{name}".rpartition("/")[0], exist_ok=True)
        system.put_file(str(file), f"/bucket/{name}")
        return Path(f"{URL}/{name}")

    yield put
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def cascade(saved):
    return Cascade.from_pretrained(saved)


def write_texts(file: Path, texts=TEXTS) -> Path:
    """The texts with a number, in the format of the ending."""
    rows = [{"n": str(n), "text": text} for n, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows)
    if file.name.endswith(".parquet"):
        pq.write_table(table, file)
    elif file.name.endswith(".arrow"):
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as target:
            target.write_table(table)
    elif file.name.endswith(".jsonl"):
        file.write_text(table.to_pandas().to_json(orient="records", lines=True))
    else:
        lines = "".join(f"{row['n']},{row['text']}\n" for row in rows)
        content = f"n,text\n{lines}".encode()
        if file.name.endswith(".zst"):
            content = pa.Codec("zstd").compress(content, asbytes=True)
        file.write_bytes(gzip.compress(content) if file.name.endswith(".gz") else content)
    return file


def test_a_path_made_from_a_url_is_known_again(tmp_path, monkeypatch):
    assert remote_url(Path("s3://bucket/a b.csv")) == "s3://bucket/a b.csv"
    assert remote_url("gs://bucket/day=*/x.parquet") == "gs://bucket/day=*/x.parquet"
    for path in ("C:/x.csv", "rows.csv", "/data/a:/b.csv", "-", "a:b"):
        assert remote_url(path) is None
    monkeypatch.chdir(tmp_path)
    Path("old:").mkdir()
    Path("old:/x.csv").write_text("a file of this machine is that file")
    assert remote_url("old:/x.csv") is None


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.csv.zst", "in.jsonl", "in.parquet", "in.arrow"])
def test_every_format_is_read_as_from_this_machine(bucket, tmp_path, name):
    file = write_texts(tmp_path / name)
    here, there = read_table(file), read_table(bucket(f"deep/er/{name}", file))
    assert list(here.columns) == list(there.columns)
    assert [there.cells(column) for column in here.columns] == [here.cells(column) for column in here.columns]
    assert there.cells("text") == TEXTS


def test_a_folder_and_a_pattern_are_one_input(bucket, tmp_path):
    for name, texts in (("day=2/b.csv", TEXTS[60:]), ("day=1/a.csv", TEXTS[:60])):
        bucket(f"in/{name}", write_texts(tmp_path / "part.csv", texts))
    bucket("in/day=1/_hidden.csv", tmp_path / "part.csv")
    bucket("in/notes.md", tmp_path / "part.csv")
    for source in ("in", "in/", "in/day=*", "in/*/*.csv"):
        table = read_table(Path(f"{URL}/{source}"))
        assert table.cells("text") == TEXTS and table.cells("day") == ["1"] * 60 + ["2"] * 40, source


def test_a_split_of_a_folder_is_chosen(bucket, tmp_path):
    for split, texts in (("train", TEXTS[:70]), ("validation", TEXTS[70:])):
        bucket(f"in/{split}.csv", write_texts(tmp_path / "part.csv", texts))
    assert read_table(Path(f"{URL}/in@dev")).cells("text") == TEXTS[70:]
    with pytest.raises(DataError, match=r"no files of the split 'other' \(found: train, validation\)"):
        read_table(Path(f"{URL}/in@other"))


def test_other_commands_read_urls_too(bucket, tmp_path):
    file = tmp_path / "labeled.csv"
    file.write_text("text,label\n" + "".join(f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(TEXTS)))
    bucket("labeled.csv", file)
    assert len(load_examples(f"{URL}/labeled.csv")) == 100


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (f"{URL}/absent.csv", DataError, "memory://bucket/absent.csv: no such file or folder"),
        (f"{URL}/*.csv", DataError, "no file matches this pattern"),
        ("nowhere://bucket/in.csv", DataError, "no URL of a storage service .*Protocol not known: nowhere"),
        (f"{URL}/in.xlsx", DataError, r"memory://bucket/in.xlsx: expected a file ending in .csv"),
        (f"{URL}/data", DataError, "is a folder without data"),
        (f"{URL}/saved", DataError, r"is a saved data set. Give its files: 'memory://bucket/saved/\*.arrow'"),
        ("oci://bucket/in.csv", MissingExtra, r"ocifs .*pip install 'cascadebert\[remote-files\]'"),
    ],
)
def test_what_cannot_be_read_is_named(bucket, tmp_path, source, error, message):
    for name in ("in.xlsx", "data/x.bin", "saved/state.json"):
        bucket(name, write_texts(tmp_path / "in.csv"))
    with pytest.raises(error, match=message):
        read_table(Path(source))


def test_a_failure_of_the_service_is_an_error_with_advice(bucket, tmp_path, monkeypatch):
    bucket("in.csv", write_texts(tmp_path / "in.csv"))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.exists", fail)
    with pytest.raises(
        DataError, match=r"\(RuntimeError: no credentials\). Check the URL and your credentials"
    ):
        list_files(f"{URL}/in.csv")
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)
    with pytest.raises(OSError, match="RuntimeError: no credentials"), open_file(f"{URL}/in.csv") as file:
        file.read()


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl.gz", "out.parquet"])
def test_predictions_are_written_as_on_this_machine(cascade, bucket, tmp_path, name):
    file = write_texts(tmp_path / "in.csv")
    predict_file(cascade, file, tmp_path / name)
    result = predict_file(cascade, bucket("in.csv", file), Path(f"{URL}/answers/{name}"))
    assert result.n == 100 and list(list_files(f"{URL}/answers")) == [name]
    with open_file(f"{URL}/answers/{name}") as there:
        assert there.read() == (tmp_path / name).read_bytes()


def test_shards_at_a_url_are_in_turn_the_whole(cascade, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("cascadebert.inference.predict_file.CHUNK_ROWS", 10)
    file = write_texts(tmp_path / "in.csv")
    predict_file(cascade, file, tmp_path / "out.csv")
    source, rows = bucket("in.csv", file), []
    for number in (1, 2, 3):
        output = Path(f"{URL}/{number}-of-3.csv")
        predict_file(cascade, source, output, shard=Shard(number, 3))
        with open_file(remote_url(output)) as there:
            rows += list(csv.reader(there.read().decode().splitlines()))[1:]
    assert rows == list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))[1:]


def test_another_machine_goes_on_where_one_was_lost(cascade, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("cascadebert.inference.predict_file.CHUNK_ROWS", 10)
    file = write_texts(tmp_path / "in.csv")
    predict_file(cascade, file, tmp_path / "out.csv")
    source, output, predicted = bucket("in.csv", file), Path(f"{URL}/out.csv"), []
    predict = Cascade.predict

    def counting(self: Cascade, texts: list[str]) -> object:
        if len(predicted) == 4:
            raise KeyboardInterrupt
        predicted.append(len(texts))
        return predict(self, texts)

    monkeypatch.setattr(Cascade, "predict", counting)
    with pytest.raises(KeyboardInterrupt):
        predict_file(cascade, source, output)
    kept = list(list_files(f"{URL}/out.csv.work"))
    assert [name for name in kept if name.startswith("0") and name.endswith(".json")][-1] == "00000003.json"
    predicted.insert(0, -1)  # past the interruption
    with pytest.raises(CascadeError, match=r"^memory://bucket/out.csv.work is unfinished work"):
        predict_file(cascade, source, output, truncate=False)
    predict_file(cascade, source, output)
    assert len(predicted) == 1 + 4 + 6
    assert list(list_files(f"{URL}/out.csv.work")) == []
    with open_file(f"{URL}/out.csv") as there:
        assert there.read() == (tmp_path / "out.csv").read_bytes()


def test_outputs_are_guarded_as_on_this_machine(cascade, bucket, tmp_path):
    source = bucket("in.csv", write_texts(tmp_path / "in.csv"))
    output = Path(f"{URL}/out.csv")
    with pytest.raises(DataError, match=r"memory://bucket/in.csv is also IN memory://bucket/in.csv"):
        predict_file(cascade, source, source)
    predict_file(cascade, source, output)
    with pytest.raises(DataError, match=r"bucket/out.csv exists already"):
        predict_file(cascade, source, output)
    predict_file(cascade, source, output, overwrite=True)
    with pytest.raises(DataError, match=r"expected a file ending in .csv"):
        predict_file(cascade, source, Path(f"{URL}/out.doc"))
    bucket("other.csv.work/thing", tmp_path / "in.csv")
    with pytest.raises(CascadeError, match=r"other.csv.work exists and was not created by cascadebert"):
        predict_file(cascade, source, Path(f"{URL}/other.csv"))


def test_the_command_line_names_the_url(saved, bucket, tmp_path, run):
    source = bucket("in.csv", write_texts(tmp_path / "in.csv"))
    rejects = ("--rejects", f"{URL}/bad.csv")
    code, values, said = run("predict", saved, source, "--output", f"{URL}/out.csv", *rejects)
    assert code == 0 and "100 predictions written to memory://bucket/out.csv" in said
    _, values, _ = run("predict", saved, source, "--output", f"{URL}/two.csv", "--json")
    assert values["output"] == "memory://bucket/two.csv"


def test_bad_rows_are_written_to_a_url(cascade, bucket, tmp_path):
    source = bucket("in.csv", write_texts(tmp_path / "in.csv", [*TEXTS[:5], "", *TEXTS[5:]]))
    rejects = Path(f"{URL}/bad/rows.csv")
    result = predict_file(cascade, source, Path(f"{URL}/out.csv"), rejects=rejects)
    assert (result.n, result.rejected) == (100, 1)
    assert read_table(rejects).cells("row") == ["6"]


@pytest.fixture
def s3(monkeypatch):
    """The URL of a bucket on a local server that speaks S3."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a"}
    for name, value in {**variables, "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("rows")
        yield "s3://rows"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_rows_on_s3_are_predicted_into_s3(cascade, s3, tmp_path):
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    for name in ("in.csv", "in.parquet"):
        file = write_texts(tmp_path / name)
        system.put_file(str(file), f"rows/{name}")
        predict_file(cascade, file, tmp_path / f"out-{name}")
        predict_file(cascade, Path(f"{s3}/{name}"), Path(f"{s3}/out/{name}"))
        assert system.cat_file(f"rows/out/{name}") == (tmp_path / f"out-{name}").read_bytes()
    assert sorted(list_files(f"{s3}/out")) == ["in.csv", "in.parquet"]
    with pytest.raises(DataError, match="exists already"):
        predict_file(cascade, Path(f"{s3}/in.csv"), Path(f"{s3}/out/in.csv"))
    with pytest.raises(DataError, match="no such file or folder"):
        read_table(Path("s3://no-such-bucket/in.csv"))
