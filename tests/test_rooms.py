"""The house: rooms import downwards only, public names are few and lazy, no torch above the engines."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cascadebert

SOURCE = Path(cascadebert.__file__).parent
FLOORS = (
    ("cli",),
    ("server",),
    ("demo",),
    ("reproduce",),
    ("baselines",),
    ("training",),
    ("stream", "verdict", "picture"),
    ("bench",),
    ("batch_size",),
    ("certifying", "shifting"),
    ("tuning",),
    ("evaluation",),
    ("cascade",),
    ("folder",),
    ("card",),
    ("spec",),
    ("costs", "fidelity"),
    ("stage",),
    ("batching",),
    ("engines",),
    ("split",),
    ("data",),
    ("outputs", "work"),
    ("tables", "tasks"),
    ("shift",),
    ("intervals",),
    ("guarantees", "scoring"),
    ("thresholds", "calibration", "metrics"),
    ("sweep", "reliability"),
    ("confidence", "progress", "environment"),
    ("timing",),
    ("types",),
    ("errors",),
)
"""From the top of the house to its ground; a room imports only from lower floors and from itself."""

HEAVY = {"torch", "transformers", "datasets", "accelerate", "scipy", "sklearn", "pyarrow", "matplotlib"}
HEAVY |= {"jinja2", "fastapi", "uvicorn", "prometheus_client", "starlette"}
HTTP = {"server/app.py", "server/metrics.py", "server/running.py"}
TRAINED = ("training", "reproduce", "baselines", "demo")


def floor(room: str) -> int:
    """Height of a room, counted from the top."""
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports(file: Path, *, at_import_time: bool) -> set[str]:
    """Modules that a file imports: all of them, or those loaded with the file itself."""
    found: set[str] = set()
    tree = ast.parse(file.read_text("utf-8"))
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    typed = {id(n) for block in checked for n in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in typed or (at_import_time and id(node) in inner):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def rooms():
    """Every file with the room it lies in."""
    for file in sorted(SOURCE.rglob("*.py")):
        inside = file.relative_to(SOURCE)
        if inside.name not in ("__init__.py", "__main__.py") or len(inside.parts) > 1:
            yield file, inside.parts[0].removesuffix(".py")


def test_rooms_import_downwards_only():
    wrong = []
    for file, room in rooms():
        for module in imports(file, at_import_time=False):
            parts = module.split(".")
            if parts[0] == "cascadebert" and len(parts) > 1 and parts[1] != room:
                if floor(parts[1]) <= floor(room):
                    wrong.append(f"{room} imports {parts[1]}")
    assert wrong == []


def test_nothing_above_the_engines_loads_torch_or_another_extra_when_imported():
    wrong = []
    for file, room in rooms():
        if room in TRAINED or (room == "engines" and file.stem in ("torch", "checkpoint", "pipeline")):
            continue
        if file.relative_to(SOURCE).as_posix() in HTTP:
            continue
        heavy = {m.split(".")[0] for m in imports(file, at_import_time=True)} & HEAVY
        wrong += [f"{file.relative_to(SOURCE)} imports {name}" for name in heavy]
    assert wrong == []


def test_only_the_torch_engine_and_training_ever_import_torch():
    users = {
        file.relative_to(SOURCE).as_posix()
        for file, _ in rooms()
        for module in imports(file, at_import_time=False)
        if module.split(".")[0] in ("torch", "transformers")
    }
    assert all(
        u.startswith(tuple(f"{room}/" for room in TRAINED))
        or u in ("engines/torch.py", "engines/checkpoint.py", "engines/pipeline.py")
        for u in users
    )


def test_public_names_are_at_most_fifteen_documented_and_there():
    assert len(cascadebert.__all__) <= 15
    for name in cascadebert.__all__:
        assert getattr(cascadebert, name).__doc__


def test_importing_the_package_and_its_command_line_loads_no_extra():
    loaded = "sys, cascadebert, cascadebert.cli, cascadebert.cascade, cascadebert.tuning, cascadebert.bench"
    code = f"import {loaded}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def depth(node: ast.AST) -> int:
    """How deep blocks are nested below a node."""
    blocks = (ast.For, ast.While, ast.If, ast.With, ast.Try)
    return max((isinstance(child, blocks) + depth(child) for child in ast.iter_child_nodes(node)), default=0)


def test_files_bodies_and_nesting_stay_small():
    wrong = []
    for file, _ in rooms():
        text = file.read_text("utf-8")
        if text.count("\n") > 400:
            wrong.append(f"{file.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                body = (node.end_lineno or 0) - start.lineno + 1
                if body > 40 or depth(node) > 3:
                    wrong.append(f"{file.name}: {node.name}: {body} lines, {depth(node)} deep")
    assert wrong == []


def test_only_timing_reads_the_clock():
    users = [file.name for file, _ in rooms() if "perf_counter" in file.read_text("utf-8")]
    assert users == ["timing.py"]
