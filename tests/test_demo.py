"""The demo on fewer rows: the whole path, its files and its contract. Its promises: benchmarks/demo.py."""

from __future__ import annotations

import re
import shlex

import pytest

from building import count_time
from cascadebert import Cascade, CascadeError
from cascadebert.demo import run as demo_run
from cascadebert.demo.task import LEVELS, generate, vocabulary


@pytest.mark.slow
def test_the_demo_writes_what_it_says_and_its_printed_commands_work(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    count_time(monkeypatch)
    for name, value in (("TRAIN_SIZE", 3000), ("TRAFFIC_SIZE", 1500), ("TEST_SIZE", 300), ("MINUTES", 20)):
        monkeypatch.setattr(demo_run, name, value)
    code, values, said = run("demo", "--output", "my demo", "--seed", 3, "--json")
    assert code == 0, said
    assert values["measured_speedup"] == 10 and 0.5 < values["agreement"] <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["my demo"]
    written = sorted(path.name for path in (tmp_path / "my demo").iterdir())
    assert written == ["classifier", "fast", "fast.work", "traffic.csv"]
    made = Cascade.from_pretrained("my demo/fast")
    build, predict, own = re.findall(r"^ +cascadebert (.+)$", demo_run.DemoResult(**values).description, re.M)
    assert own.startswith("build YOUR-CLASSIFIER --data YOUR-TEXTS.csv")
    for command in (build, predict):
        code, _, said = run(*shlex.split(command))
        assert code == 0, said
    assert Cascade.from_pretrained("my demo/fast").operating_point == made.operating_point
    assert (tmp_path / "predictions.csv").is_file()


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_run, "train_stage", stop)
    output = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        demo_run.demo(output)
    (output / "classifier").mkdir()
    with pytest.raises(CascadeError, match="exists already"):
        demo_run.demo(output)
    with pytest.raises(KeyboardInterrupt):
        demo_run.demo(output, overwrite=True)
    assert not (output / "classifier").exists()
    (output / "thesis.txt").touch()
    with pytest.raises(CascadeError, match="it is not replaced"):
        demo_run.demo(output, overwrite=True)
    assert (output / "thesis.txt").exists()


def test_the_task_is_balanced_at_every_level_and_its_level_is_not_told():
    rows = generate(6000, seed=11)
    for level in range(len(LEVELS)):
        share = [row.label == "positive" for row in rows if row.level == level]
        assert 0.42 < sum(share) / len(share) < 0.58
    assert not any(name in vocabulary() for name in ("plain", "negated", "scope", "contrast"))
