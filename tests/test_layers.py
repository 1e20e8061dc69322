"""Imports only point down, and heavy libraries stay inside the functions that need them.

The layers are a contract of import-linter in pyproject.toml: change it in the same commit as the code, and say why.
Here it is run and shown to fail where it should; the rest checks what it cannot see.
"""

import ast
import graphlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FOUNDATIONS = ("errors", "sensors", "grid", "config", "samples", "runs")
# Training from shards must run where none of these is installed.
HEAVY = {
    "dask",
    "distributed",
    "h5py",
    "jinja2",
    "matplotlib",
    "pyogrio",
    "pyproj",
    "pystac",
    "pystac_client",
    "rasterio",
    "requests",
    "scipy",
    "shapely",
    "sklearn",
    "tensorboard",
    "tzfpy",
    "zarr",
}


def module_name(path: Path, root: Path) -> str:
    """Name the module a file holds: `a/b.py` is a.b, `a/__init__.py` is a."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that importing a file runs: none inside functions, none for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if is_type_checking(node):
            for other in node.orelse:
                yield other
                yield from run_at_import(other)
            continue
        yield node
        yield from run_at_import(node)


def targets(node: ast.AST, importer: str, is_package: bool) -> list[str]:
    """Give the dotted names an import statement may load: for `from a import b`, a.b (b may be a value in a)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = importer.split(".")
    base = parts[: len(parts) - node.level + is_package] if node.level else []
    start = ".".join([*base, *([node.module] if node.module else [])])
    return [f"{start}.{alias.name}" for alias in node.names]


def libraries_at_import(source: str) -> dict[str, int]:
    """Give the top-level packages that importing a file loads, each with its line."""
    found = {}
    for node in run_at_import(ast.parse(source)):
        for target in targets(node, "", False):
            found[target.split(".")[0]] = getattr(node, "lineno", 0)
    return found


def sibling_graphs(root: Path) -> dict[str, dict[str, set[str]]]:
    """Give, per folder, which of its members imports which other member, inside functions too."""
    paths = {module_name(path, root): path for path in root.rglob("*.py")}
    graphs: dict[str, dict[str, set[str]]] = {}
    for importer, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            for target in targets(node, importer, path.name == "__init__.py"):
                loaded = target if target in paths else target.rpartition(".")[0]
                if loaded in paths and loaded != importer:
                    add_edge(graphs, importer, loaded)
    return graphs


def add_edge(graphs: dict[str, dict[str, set[str]]], importer: str, loaded: str) -> None:
    """Note an import in the deepest folder that holds both; a folder's own `__init__` is one of its members."""
    left, right = [*importer.split("."), "__init__"], [*loaded.split("."), "__init__"]
    depth = next(i for i, (a, b) in enumerate(zip_longest(left, right)) if a != b)
    graphs.setdefault(".".join(left[:depth]), {}).setdefault(left[depth], set()).add(right[depth])


def cycles(root: Path) -> list[str]:
    found = []
    for folder, graph in sorted(sibling_graphs(root).items()):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            found.append(f"{folder}: {' -> '.join(reversed(error.args[1]))}")
    return found


def lint_imports(src: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml on the package in `src`."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", "--config", str(ROOT / "pyproject.toml")],
        env=os.environ | {"PYTHONPATH": str(src)},
        cwd=src,
        capture_output=True,
        text=True,
        check=False,
    )


def python(code: str) -> str:
    """Run code in a fresh interpreter and give what it prints."""
    env = os.environ | {"PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_point_down():
    done = lint_imports(SRC)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "line", "said"),
    [
        ("errors.py", "import geomaestro.sensors", "geomaestro.errors -> geomaestro.sensors"),
        ("errors.py", "from . import learn", "geomaestro.errors -> geomaestro.learn"),
        ("nn/extra.py", "def f():\n    import geomaestro.data", "geomaestro.nn.extra -> geomaestro.data"),
        ("unplanned.py", "", "unplanned"),
    ],
)
def test_the_contract_refuses_an_import_that_points_up_or_sideways(tmp_path, path, line, said):
    shutil.copytree(SRC / "geomaestro", tmp_path / "geomaestro", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "geomaestro" / path).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


def test_the_members_of_a_folder_have_an_order():
    assert cycles(SRC) == []


def test_a_circle_of_imports_is_found(tmp_path):
    sources = {
        "p/__init__.py": "",
        "p/a.py": "from p.q import c",
        "p/b.py": "from .a import value",
        "p/q/__init__.py": "",
        "p/q/c.py": "def f():\n    from .. import b",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert len(cycles(tmp_path)) == 1
    assert cycles(tmp_path)[0].startswith("p: ")
    (tmp_path / "p/b.py").write_text("")
    assert cycles(tmp_path) == []


def test_heavy_libraries_are_imported_inside_functions_only():
    found = [
        f"{path.relative_to(ROOT)}:{line}: import {name} inside the function that needs it"
        for path in sorted(SRC.rglob("*.py"))
        for name, line in libraries_at_import(path.read_text()).items()
        if name in HEAVY
    ]
    assert found == []


def test_foundations_and_selection_import_torch_inside_functions_only():
    package = SRC / "geomaestro"
    paths = [package / f"{name}.py" for name in FOUNDATIONS] + sorted((package / "select").rglob("*.py"))
    found = [path.name for path in paths if path.exists() and "torch" in libraries_at_import(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import rasterio.windows", {"rasterio"}),
        ("from sklearn.ensemble import RandomForestClassifier", {"sklearn"}),
        ("try:\n    import zarr\nexcept ImportError:\n    zarr = None", {"zarr"}),
        ("class A:\n    import h5py", {"h5py"}),
        ("def f():\n    import rasterio", set()),
        ("async def f():\n    import rasterio", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", {"typing"}),
        ("import typing\nif typing.TYPE_CHECKING:\n    import torch\nelse:\n    import h5py", {"typing", "h5py"}),
        ("from . import raster", {""}),
    ],
)
def test_an_import_counts_when_importing_the_file_runs_it(source, found):
    assert set(libraries_at_import(source)) == found


def test_every_module_imports_where_no_heavy_library_is_installed():
    python(
        f"""
import importlib, pkgutil, sys
for name in {sorted(HEAVY)}:
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
import geomaestro
for module in pkgutil.walk_packages(geomaestro.__path__, "geomaestro."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    )


def test_foundations_and_selection_import_without_torch():
    python(
        f"""
import importlib, importlib.util, pkgutil, sys
sys.modules["torch"] = None
import geomaestro
for name in {FOUNDATIONS}:
    if importlib.util.find_spec(f"geomaestro.{{name}}"):
        importlib.import_module(f"geomaestro.{{name}}")
if importlib.util.find_spec("geomaestro.select"):
    import geomaestro.select
    for module in pkgutil.walk_packages(geomaestro.select.__path__, "geomaestro.select."):
        importlib.import_module(module.name)
"""
    )


def test_importing_geomaestro_loads_nothing_big():
    loaded = python("import sys, geomaestro; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not {"torch", "numpy", "pydantic", *HEAVY} & set(loaded)
