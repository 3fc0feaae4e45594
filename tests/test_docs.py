"""What README and docs say is run: Python blocks, command lines, generated tables."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from building import count_time, train_classifier
from cascadebert.cli import app as cli
from samples import reviews, write_csv

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str):
    """(page, block) of every fenced block of a language."""
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            yield pytest.param(block, id=page.name)


def commands():
    """Every command line of the tool in the pages, continued lines joined."""
    for block in blocks("console"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            if line.startswith("$ cascadebert "):
                words = shlex.split(line, comments=True)[2:]
                yield pytest.param(words, id=f"{block.id}: {words[0]}")


@pytest.mark.parametrize("words", list(commands()))
def test_command_lines_in_the_docs_are_understood(words):
    verb, *rest = words
    command = typer.main.get_command(cli.app).commands[verb]
    command.make_context(verb, rest)  # parses, runs nothing; refuses what it does not know


@pytest.mark.slow
@pytest.mark.parametrize("code", [one for one in blocks("python") if "import ray" not in one.values[0]])
def test_python_in_the_docs_runs(code, saved, make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("train.csv"), *reviews(200, seed=1))
    shutil.copytree(make_model(layers=1, hidden=16, labels=None), "small")
    shutil.copytree(make_model(layers=2, hidden=32, labels=None), "large")
    if "fit(" not in code:
        shutil.copytree(saved, "my-cascade")
    if "build(" in code:
        count_time(monkeypatch)
        model = train_classifier(make_model(layers=2, hidden=32), tmp_path / "work")
        shutil.copytree(model, "my-classifier")
        write_csv(Path("traffic.csv"), *reviews(600, seed=2))
        code = code.replace("0.98", "0.8")  # it has learned little
    code = code.replace(
        "FitConfig(epochs=1)", "FitConfig(epochs=1, max_length=32)"
    )  # tiny models read little
    exec(compile(code, "docs", "exec"), {})


def test_tables_in_the_docs_are_those_of_the_result_files():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
