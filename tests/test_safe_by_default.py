"""What no code of the repository does: unpickle, fetch or install anything. The linter's rules for this can be switched off in a line."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("fedstyle", "simulation", "clients", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NETWORK = {"ensurepip", "ftplib", "http", "huggingface_hub", "pip", "requests", "urllib", "urllib3"}
FETCHES = {"download_url_to_file", "load_state_dict_from_url", "urlopen", "urlretrieve"}


def flaws(text):
    """The lines that unpickle, fetch or install, as (line, what)."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [(node.lineno, f"imports {name}") for name in names if name.partition(".")[0] in PICKLES | NETWORK]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            last = called.rpartition(".")[2]
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append((node.lineno, "torch.load of more than weights"))
            if called == "torch.save" or last == "read_pickle" or given.get("allow_pickle", "False") != "False":
                found.append((node.lineno, f"{called} with a pickle"))
            if last in FETCHES or called == "torch.hub.load":
                found.append((node.lineno, f"{called} fetches"))
        if isinstance(node, ast.List | ast.Tuple) and [getattr(one, "value", None) for one in node.elts][-2:-1] == ["install"]:
            found.append((node.lineno, "installs"))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
        "np.load(path, allow_pickle=True)",
        "from urllib.request import urlopen",
        "torch.hub.load_state_dict_from_url(url)",
        "subprocess.run(['pip', 'install', name])",
    ],
)
def test_each_is_seen(text):
    assert flaws(text)


def test_what_is_allowed_is_not():
    assert not flaws("import safetensors\ntorch.load(path, weights_only=True)\nnp.load(path)\nnp.save(file, values, allow_pickle=False)")


def test_no_code_unpickles_fetches_or_installs():
    assert len(FILES) > 100
    found = {str(path.relative_to(ROOT)): those for path in FILES if (those := flaws(path.read_text()))}
    assert not found
