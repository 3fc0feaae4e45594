"""Tiny real models, made once: no network, no weights of others, never a mock of someone else's class."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from samples import reviews, write_csv

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: threads would only get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeModel = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real data are skipped where it is absent."""
    absent = pytest.mark.skip(reason="the developers' data sets are not here")
    if not shared_data().is_dir():
        for item in items:
            if "real" in item.keywords:
                item.add_marker(absent)


def shared_data() -> Path:
    """Where the developers' data sets lie, beside the checkout."""
    return Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def one_engine():
    """The first engine and precision of those that a request leaves open: which is fastest varies."""
    from cascadebert.inference.engines import load

    def first(engine: str, precision: str) -> list[tuple[str, str]]:
        return [load.resolve_engine(engine, precision)]

    with pytest.MonkeyPatch.context() as patch:
        for module in ("training.assemble", "training.fit", "training.cascade_builder.build", "tuning.tune"):
            patch.setattr(f"cascadebert.{module}.engine_options", first)
        yield


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A maker of tiny random checkpoints: `make_model("bert", layers=2, labels=("a", "b"))`."""
    import tiny

    root = tmp_path_factory.mktemp("models")

    def make(family: str = "bert", **sizes: object) -> Path:
        return tiny.checkpoint(root, family, **sizes)

    return make


@pytest.fixture(scope="session")
def make_cascade(make_model: MakeModel):
    """A maker of unsaved cascades of 1 to 4 random stages that get larger."""
    from cascadebert.inference.cascade import Cascade
    from cascadebert.inference.stage import Stage
    from cascadebert.thresholds.operating_point import OperatingPoint

    def make(count: int, *, thresholds: tuple[float, ...] | None = None) -> Cascade:
        stages = tuple(
            Stage.from_pretrained(make_model(layers=i, hidden=16 * i, seed=i)) for i in range(1, count + 1)
        )
        point = OperatingPoint(thresholds if thresholds is not None else (0.9, 0.75, 0.9)[: count - 1])
        return Cascade(stages, (1.0, 1.5, 0.7, 2.0)[:count], point)

    return make


@pytest.fixture(scope="session")
def saved(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved cascade of two random stages, and beside it the labeled file it was tuned on."""
    from cascadebert import Target, assemble

    root = tmp_path_factory.mktemp("saved")
    texts, labels = reviews(160, seed=5)
    write_csv(root / "data.csv", texts, labels)
    stages = [make_model(layers=i, hidden=16 * i, seed=i) for i in (1, 3)]
    assemble(
        stages, data=root / "data.csv", target=Target(speedup=2.0), output=root / "cascade", engine="torch"
    )
    return root / "cascade"


@pytest.fixture(scope="session")
def cascade(make_cascade):
    """An unsaved cascade of two random stages."""
    return make_cascade(2, thresholds=(0.7,))


@pytest.fixture(scope="session")
def known(saved: Path):
    """The saved cascade, with its kind of input and the accuracy of its stages."""
    from cascadebert.inference.cascade import Cascade

    return Cascade.from_pretrained(saved)


@pytest.fixture(scope="session")
def client(cascade):
    """A client of a server of `cascade` with a real dispatcher, without a network."""
    from starlette.testclient import TestClient

    from cascadebert.server.http.app import make_app
    from cascadebert.server.scheduling.dispatcher import BatchDispatcher
    from serving import SMALL

    app = make_app(BatchDispatcher(cascade, SMALL), cascade, SMALL)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def run(capfd, monkeypatch):
    """Run the command line as the shell does; gives exit code, JSON of the last line, all that was said."""
    from cascadebert.cli import app as cli

    def call(*words):
        monkeypatch.setattr("sys.argv", ["cascadebert", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said, errors = capfd.readouterr()
        last = said.strip().splitlines()[-1] if said.strip() else ""
        values = json.loads(last) if last.startswith("{") else None
        return ended.value.code or 0, values, said + errors

    return call
