"""The layout: packages import downwards only, public names are few and lazy, heavy libraries load late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cascadebert

SOURCE = Path(cascadebert.__file__).parent
LAYERS = (
    ("cli",),
    ("distributed",),
    ("server", "paper", "demo"),
    ("training",),
    ("tuning",),
    ("evaluation",),
    ("inference",),
    ("persistence",),
    ("thresholds", "data"),
    ("paths",),
    ("atomic", "environment", "progress", "remote_files"),
    ("timing", "types"),
    ("errors",),
)
"""The packages and root modules from top to bottom; each imports only from lower layers and from itself."""

INNER_LAYERS = {
    "server": (
        ("http",),
        ("scheduling",),
        ("monitoring",),
        ("operating_points", "loading"),
        ("config", "types"),
    ),
}
"""The same inside packages that have packages of their own."""

OPTIONAL = {"torch", "transformers", "datasets", "accelerate", "scipy", "sklearn", "pyarrow", "matplotlib"}
OPTIONAL |= {"jinja2", "ray", "fastapi", "uvicorn", "prometheus_client", "starlette"}
LOADS_OPTIONAL = (
    "training",
    "paper",
    "demo",
    "distributed",
    "inference/engines/torch.py",
    "server/http",
    "server/monitoring/metrics.py",
)
"""Where files may import an optional dependency: nothing else does so on the inference path."""
LOADS_TORCH = ("training", "paper", "demo", "inference/engines/torch.py")


def layer(name: str, layers: tuple[tuple[str, ...], ...]) -> int:
    """Position of a package or module, counted from the top."""
    return next(i for i, names in enumerate(layers) if name in names)


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


def files():
    """Every module with its path below the package, but for the package's own `__init__` and `__main__`."""
    for file in sorted(SOURCE.rglob("*.py")):
        path = file.relative_to(SOURCE)
        if path.name not in ("__init__.py", "__main__.py") or len(path.parts) > 1:
            yield file, path


def upward(prefix: str, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports between the parts of a package that do not point down."""
    depth = prefix.count(".") + 1
    found = []
    for file, path in files():
        own = ("cascadebert", *path.with_suffix("").parts)
        if ".".join(own[:depth]) != prefix or own[depth] == "__init__":
            continue
        for module in imports(file, at_import_time=False):
            parts = module.split(".")
            if ".".join(parts[:depth]) == prefix and len(parts) > depth and parts[depth] != own[depth]:
                if layer(parts[depth], layers) <= layer(own[depth], layers):
                    found.append(f"{path} imports {module}")
    return found


def test_packages_import_downwards_only():
    assert upward("cascadebert", LAYERS) == []


def test_parts_of_the_server_import_downwards_only():
    for name, layers in INNER_LAYERS.items():
        assert upward(f"cascadebert.{name}", layers) == []


def test_only_training_and_http_load_an_optional_dependency_when_imported():
    wrong = []
    for file, path in files():
        if not path.as_posix().startswith(LOADS_OPTIONAL):
            loaded = {m.split(".")[0] for m in imports(file, at_import_time=True)} & OPTIONAL
            wrong += [f"{path} imports {name}" for name in loaded]
    assert wrong == []


def test_only_the_torch_engine_and_training_ever_import_torch():
    users = {
        path.as_posix()
        for file, path in files()
        for module in imports(file, at_import_time=False)
        if module.split(".")[0] in ("torch", "transformers")
    }
    assert [user for user in users if not user.startswith(LOADS_TORCH)] == []


def test_public_names_are_at_most_fifteen_documented_and_there():
    assert len(cascadebert.__all__) <= 15
    for name in cascadebert.__all__:
        assert getattr(cascadebert, name).__doc__


def test_no_class_name_is_used_twice():
    seen: dict[str, str] = {}
    twice = []
    for file, path in files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                if node.name in seen:
                    twice.append(f"{node.name} in {seen[node.name]} and {path}")
                seen[node.name] = str(path)
    assert twice == []


@pytest.mark.slow
def test_importing_the_package_and_its_command_line_loads_no_optional_dependency():
    modules = "cascadebert, cascadebert.cli, cascadebert.inference.cascade, cascadebert.tuning.tune"
    code = f"import sys, {modules}; print(sorted({OPTIONAL!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def nesting(node: ast.AST) -> int:
    """How deep blocks are nested below a node."""
    blocks = (ast.For, ast.While, ast.If, ast.With, ast.Try)
    return max(
        (isinstance(child, blocks) + nesting(child) for child in ast.iter_child_nodes(node)), default=0
    )


def test_files_bodies_and_nesting_stay_small():
    wrong = []
    for file, path in files():
        text = file.read_text("utf-8")
        if text.count("\n") > 400:
            wrong.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                body = (node.end_lineno or 0) - start.lineno + 1
                if body > 40 or nesting(node) > 3:
                    wrong.append(f"{path}: {node.name}: {body} lines, {nesting(node)} deep")
    assert wrong == []


def test_only_timing_reads_the_clock():
    users = [str(path) for file, path in files() if "perf_counter" in file.read_text("utf-8")]
    assert users == ["timing.py"]


def test_no_file_of_the_package_is_ignored_and_so_left_out_of_wheels():
    command = ["git", "ls-files", "--cached", "--others", "--ignored", "--exclude-standard", "--", "."]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert [name for name in done.stdout.splitlines() if "__pycache__" not in name] == []
