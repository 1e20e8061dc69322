"""What no file of the project may do: run foreign code, hide an error, name one machine, grow too long.

`check` is the lint rule; each ban is shown to fail on a snippet that breaks it.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON_FOLDERS = ("src", "tests", "benchmarks", "scripts")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_TRACKED_BYTES = 1_000_000

NEVER_IMPORTED = {"pickle", "_pickle", "cloudpickle", "dill", "shelve"}  # reading them executes what was written
NEVER_USED = {
    "eval": "evaluate no text as code",
    "exec": "evaluate no text as code",
    "builtins.eval": "evaluate no text as code",
    "builtins.exec": "evaluate no text as code",
    "joblib.load": "joblib files are pickles; store arrays as safetensors or npy",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.full_load_all": "use yaml.safe_load_all",
    "yaml.unsafe_load": "use yaml.safe_load",
    "yaml.unsafe_load_all": "use yaml.safe_load_all",
}
CALLED_ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "torch.serialization.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
NEVER_PASSED = {("strict", False), ("allow_pickle", True)}
MACHINE_PATH = re.compile(r"/(work|root|home)/")
MACHINE_PATH_IN_TEXT = re.compile(r"""(^|[\s"'`=:(\[])/(work|root|home)/""")

Found = Iterator[tuple[int, str]]


def names_in(tree: ast.AST) -> dict[str, str]:
    """Give what each imported name stands for: np -> numpy, load -> torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """Spell out `np.load` as numpy.load; empty for what is no dotted name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = full_name(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def keyword_values(call: ast.Call) -> set[tuple[str | None, object]]:
    return {(word.arg, word.value.value) for word in call.keywords if isinstance(word.value, ast.Constant)}


def banned_imports(tree: ast.AST) -> Found:
    names = names_in(tree)
    for node in ast.walk(tree):
        loaded: list[str] = []
        if isinstance(node, ast.Import):
            loaded = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            loaded = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and full_name(node.func, names) in {"importlib.import_module", "__import__"}:
            loaded = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        for name in loaded:
            if name.split(".")[0] in NEVER_IMPORTED or name in NEVER_USED:
                yield node.lineno, f"{name} executes what a file says; {NEVER_USED.get(name, 'do not import it')}"


def banned_uses(tree: ast.AST) -> Found:
    """Find banned functions, called or handed on, and calls without the argument that makes them safe."""
    names = names_in(tree)
    safe: set[int] = set()
    for node in ast.walk(tree):  # breadth first: a call comes before the name it calls
        if isinstance(node, ast.Call):
            if CALLED_ONLY_WITH.get(full_name(node.func, names)) in keyword_values(node):
                safe.add(id(node.func))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node, names)
            if name in NEVER_USED:
                yield node.lineno, f"{name}: {NEVER_USED[name]}"
            elif name in CALLED_ONLY_WITH and id(node) not in safe:
                word, value = CALLED_ONLY_WITH[name]
                yield node.lineno, f"{name} has to be called with {word}={value}, written out"


def banned_arguments(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for word, value in sorted(NEVER_PASSED & keyword_values(node), key=str):
                yield node.lineno, f"{word}={value} hides what does not fit"


def bare_excepts(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "a bare except also catches Ctrl-C; name the exception"


def machine_paths(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MACHINE_PATH.match(node.value):
            yield node.lineno, f"{node.value!r} is a path of one machine"


def bound_names(node: ast.AST) -> list[str | None]:
    """Give the names a node gives a value to."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return [node.attr]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.alias):
        return [node.asname]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name]
    return []


def variables_called_mask(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        if "mask" in bound_names(node):
            yield getattr(node, "lineno", 0), "call it `hidden`, `valid`, ...: a boolean is named for what True means"


def long_functions(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES} are allowed"


RULES: tuple[Callable[[ast.AST], Found], ...] = (
    banned_imports,
    banned_uses,
    banned_arguments,
    bare_excepts,
    machine_paths,
    variables_called_mask,
)


def check(source: str, path: str) -> list[str]:
    """Give all that is banned in a Python file, each as `path:line: what`."""
    tree = ast.parse(source)
    found = [problem for rule in RULES for problem in rule(tree)]
    if path.startswith("src/"):
        found += long_functions(tree)
        lines = source.count("\n")
        if lines > MAX_FILE_LINES:
            found.append((lines, f"a file of {lines} lines, at most {MAX_FILE_LINES} are allowed"))
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def check_text(text: str, path: str) -> list[str]:
    """Give the machine paths in a file that is not Python."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"{path}:{i}: a path of one machine" for i, line in lines if MACHINE_PATH_IN_TEXT.search(line)]


def check_size(path: Path, limit: int = MAX_TRACKED_BYTES) -> list[str]:
    size = path.stat().st_size
    return [f"{path}: {size} bytes, at most {limit} may be tracked"] if size > limit else []


def project_files() -> list[str]:
    """List the files git tracks or would track; without git, those in the folders of the project."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = (*PYTHON_FOLDERS, "docs", "recipes")
        names = [p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob("*.*")]
        names = [name for name in names if "__pycache__" not in name]
    return [name for name in names if (ROOT / name).is_file()]


def python_files() -> list[str]:
    return [name for name in project_files() if name.endswith(".py") and name.startswith(PYTHON_FOLDERS)]


def test_nothing_banned_is_in_the_python_files():
    names = python_files()
    assert "tests/test_bans.py" in names
    assert [problem for name in names for problem in check((ROOT / name).read_text(encoding="utf-8"), name)] == []


def test_no_other_file_names_a_machine():
    found = []
    for name in project_files():
        content = (ROOT / name).read_bytes()
        if not name.endswith(".py") and b"\0" not in content:
            found += check_text(content.decode("utf-8", errors="replace"), name)
    assert found == []


def test_no_tracked_file_is_big():
    assert [problem for name in project_files() for problem in check_size(ROOT / name)] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pickle", "pickle executes"),
        ("from pickle import loads", "pickle executes"),
        ("import cloudpickle as safe", "cloudpickle executes"),
        ("import dill.settings", "dill.settings executes"),
        ("import importlib\nimportlib.import_module('pickle')", "pickle executes"),
        ("from joblib import load", "joblib.load executes"),
        ("import joblib\njoblib.load('a')", "joblib.load: joblib files are pickles"),
        ("eval('1')", "eval: evaluate no text"),
        ("run = exec", "exec: evaluate no text"),
        ("import builtins\nbuiltins.eval('1')", "builtins.eval: evaluate no text"),
        ("model.load_state_dict(state, strict=False)", "strict=False hides"),
        ("import torch\ntorch.load('a')", "torch.load has to be called with weights_only=True"),
        ("import torch\ntorch.load('a', weights_only=False)", "torch.load has to be called with weights_only=True"),
        ("import torch\ntorch.load('a', weights_only=flag)", "torch.load has to be called with weights_only=True"),
        ("from torch import load as read\nread('a')", "torch.load has to be called with weights_only=True"),
        ("import torch\nread = torch.load", "torch.load has to be called with weights_only=True"),
        ("import numpy as np\nnp.load('a')", "numpy.load has to be called with allow_pickle=False"),
        ("import numpy\nnumpy.load('a', allow_pickle=True)", "allow_pickle=True hides"),
        ("read(path, allow_pickle=True)", "allow_pickle=True hides"),
        ("import yaml\nyaml.load(text, Loader=yaml.SafeLoader)", "use yaml.safe_load"),
        ("from yaml import unsafe_load", "use yaml.safe_load"),
        ("try:\n    f()\nexcept:\n    pass", "bare except"),
        ("p = '/" + "work/data'", "path of one machine"),
        ("p = f'/" + "home/{name}'", "path of one machine"),
        ("mask = 1", "call it `hidden`"),
        ("def f(mask): ...", "call it `hidden`"),
        ("self.mask = 1", "call it `hidden`"),
        ("for i, mask in pairs: ...", "call it `hidden`"),
        ("class A:\n    mask: bool", "call it `hidden`"),
        ("import a.b as mask", "call it `hidden`"),
        ("def f():\n" + "    a = 1\n" * 60, "f has 61 lines"),
        ("a = 1\n" * 401, "a file of 401 lines"),
    ],
)
def test_a_banned_thing_is_found(source, said):
    found = check(source, "src/geomaestro/bad.py")
    assert any(said in problem for problem in found), found
    assert all(re.match(r"src/geomaestro/bad\.py:\d+: ", problem) for problem in found)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a', map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load('a', allow_pickle=False)",
        "import yaml\nyaml.safe_load('a')",
        "import joblib\njoblib.dump(1, 'a')",
        "model.eval()",
        "model.load_state_dict(state, strict=True)",
        "attend(q, k, v, mask=hidden)",
        "try:\n    f()\nexcept OSError:\n    pass",
        "url = 'https://example.org/home/page'",
        "def f():\n" + "    a = 1\n" * 59,
        "a = 1\n" * 400,
    ],
)
def test_what_is_allowed_is_left_alone(source):
    assert check(source, "src/geomaestro/good.py") == []


def test_the_line_of_a_banned_thing_is_named():
    assert check("a = 1\n\nimport pickle\n", "benchmarks/b.py")[0].startswith("benchmarks/b.py:3: ")


def test_only_the_package_has_length_limits():
    assert check("a = 1\n" * 401, "tests/test_long.py") == []


@pytest.mark.parametrize("line", ["root: /" + "work/data", "cd /" + "root/x", "`/" + "home/me/runs`"])
def test_a_machine_path_is_found_in_text(line):
    assert check_text(f"first\n{line}\n", "recipes/r.yaml") == ["recipes/r.yaml:2: a path of one machine"]


def test_other_paths_may_stand_in_text():
    assert check_text("https://example.org/work/1 and src/home/x and /data/tiles\n", "docs/d.md") == []


def test_a_big_file_is_found(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"12345")
    assert check_size(path, limit=5) == []
    assert check_size(path, limit=4) == [f"{path}: 5 bytes, at most 4 may be tracked"]
