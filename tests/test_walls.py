"""The four walls of the design: what may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "fedstyle").rglob("*.py"))
PUBLIC = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp", "flwr.simulation"}
LAZY = {
    "av",
    "coremltools",
    "dp_accounting",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "playwright",
    "tensorboard",
    "ray",
    "scipy",
    "skimage",
    "torchvision",
}


def imports(path, *, whole=True):
    """The modules that a file imports as it is loaded, and with `whole` those inside its functions too."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree) if whole else at_load(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [(node.module, alias.name) for alias in node.names]
    return found


def at_load(node):
    """The nodes that run when a module is loaded: not those in functions, nor those for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_load(child)


def top(module):
    return module.partition(".")[0]


def loaded(statement):
    """The modules that a fresh interpreter holds after a statement, and the seconds that it took."""
    code = f"import time; t = time.perf_counter()\n{statement}\nt = time.perf_counter() - t\nimport sys; print(t, *sys.modules)"
    seconds, *modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return set(modules), float(seconds)


def test_there_is_something_to_look_at():
    assert len(FILES) > 20
    assert ("flwr.clientapp", "ClientApp") in imports(ROOT / "fedstyle" / "flower" / "client.py", whole=False)
    assert "flwr.simulation" in {module for module, _ in imports(ROOT / "fedstyle" / "flower" / "ray.py")}
    assert "flwr.simulation" not in {module for module, _ in imports(ROOT / "fedstyle" / "flower" / "ray.py", whole=False)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_wall_1_only_the_flower_package_imports_flwr_and_only_what_is_public(path):
    found = {(module, name) for module, name in imports(path) if top(module) == "flwr"}
    if path.parent != ROOT / "fedstyle" / "flower":
        assert not found
    if path.name == "inline.py":
        found.discard(("flwr.supercore.task_identity", "TaskIdentity"))  # the first named exception
    if path.name == "gate.py":  # the second: what starts an app, so that nothing but the installed fedstyle is started
        found -= {("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"), ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp")}
        found -= {("flwr.superlink.cli", "flower_superlink"), ("flwr.supercore.cli", "flower_superexec")}
        found.discard(("flwr.supernode.cli.flwr_clientapp", None))
    for module, name in found:
        assert module in PUBLIC, f"{module} is not public"
        assert name is None or not name.startswith("_")


def test_wall_2_heavy_packages_are_imported_where_they_are_used_and_by_few():
    for path in FILES:
        assert not {top(module) for module, _ in imports(path, whole=False)} & LAZY, path
    modules, _ = loaded("import fedstyle")
    assert not {top(module) for module in modules} & (LAZY | {"torch", "numpy", "PIL", "flwr", "click", "rich"})


def test_wall_2_import_fedstyle_is_fast():
    assert min(loaded("import fedstyle")[1] for _ in range(3)) < 0.5


def test_wall_3_server_code_cannot_reach_a_photo():
    names = (
        "server",
        "wire",
        "cohort",
        "strategies",
        "private",
        "guard",
        "secure",
        "summing",
        "hosting",
        "orders",
        "credentials",
        "vouching",
    )
    server = {f"fedstyle.flower.{name}" for name in names}
    modules, _ = loaded(f"import {', '.join(sorted(server))}")  # in one interpreter: what none of them reaches, no one does
    assert server <= modules
    private = ("photos", "candidates", "picture", "style", "thumbnails", "client", "training", "population", "simulate", "methods")
    assert not modules & {f"fedstyle.{name}" for name in private}
    assert "PIL" not in modules


def test_wall_4_fedstyle_does_not_import_what_uses_it():
    for path in FILES:
        assert not {top(module) for module, _ in imports(path)} & {"simulation", "clients", "benchmarks", "tests"}, path


def test_no_file_outgrows_a_readers_patience():
    long = {str(path.relative_to(ROOT)): count for path in FILES if (count := len(path.read_text().splitlines())) > 300}
    assert not long, "split these along their natural seams"


def test_importing_the_federation_package_sets_the_switches_and_nothing_else():
    statement = "import os; import fedstyle.flower; assert os.environ['FLWR_TELEMETRY_ENABLED'] == '0'"
    modules, _ = loaded(statement)
    assert not {top(module) for module in modules} & {"flwr", "ray", "torch"}
