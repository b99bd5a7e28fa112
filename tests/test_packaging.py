"""What is shipped: the wheel, its dependencies, the pins, and no trace of the machine that it was made on."""

import re
import subprocess
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_walls import loaded, top

import fedstyle
from fedstyle.net import ARCHITECTURES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *EXTRAS.values()
HEAVY = {"coremltools", "flwr", "matplotlib", "onnx", "onnxruntime", "ray", "scipy", "skimage", "torchvision"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this working tree, opened."""
    from hatchling.builders.wheel import WheelBuilder

    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as file:
        yield file


def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(wheel.namelist())
    assert {name.partition("/")[0] for name in names} == {"fedstyle", f"fedstyle-{fedstyle.__version__}.dist-info"}
    inside = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "fedstyle").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("fedstyle/")} == inside
    assert {Path(name).suffix for name in inside} - {".json", ".jpg", ".md"} == {".css", ".js", ".py", ".safetensors", ".typed"}
    described = {name.rpartition("/")[0].removeprefix("fedstyle/weights/") for name in inside if name.endswith(".json")}
    assert {folder for folder in described if not folder.startswith("filters/")} <= set(ARCHITECTURES)
    assert sum(name.startswith("fedstyle/weights/filters/") and name.endswith("/entry.json") for name in names) >= 8
    assert "fedstyle/weights/filters/CREDITS.md" in names
    assert {"fedstyle/py.typed", "fedstyle/report/page.css", "fedstyle/report/page.js", "fedstyle/weights/tiny.safetensors"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_embedded_weights_are_small(wheel):
    assert wheel.getinfo("fedstyle/weights/tiny.safetensors").file_size <= 2_000_000
    bases = [info for info in wheel.infolist() if info.filename.startswith(tuple(f"fedstyle/weights/{arch}/" for arch in ARCHITECTURES))]
    assert {Path(info.filename).name for info in bases} <= {"base.json", "base.safetensors"}
    assert sum(info.file_size for info in bases) <= 6_000_000
    assert sum(info.compress_size for info in wheel.infolist() if info not in bases) <= 3_000_000


def test_the_wheel_says_what_it_is(wheel):
    facts = metadata(wheel)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert facts["Name"] == "fedstyle"
    assert facts["Version"] == fedstyle.__version__ == cited[1]
    assert facts["License-Expression"] == "Apache-2.0"
    assert set(facts.get_all("Provides-Extra")) == set(EXTRAS)
    (scripts,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "fedstyle = fedstyle.cli:main" in wheel.read(scripts).decode()


def test_the_core_is_lean():
    core = {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    assert core == {"click", "numpy", "pillow", "rich", "safetensors", "torch"}
    modules, _ = loaded("import fedstyle.client, fedstyle.filter, fedstyle.training")
    assert {"fedstyle.client", "fedstyle.filter", "fedstyle.training", "torch"} <= modules
    assert not {top(module) for module in modules} & HEAVY


def test_the_extras_name_each_other_and_nothing_twice():
    for extra, texts in EXTRAS.items():
        wishes = [Requirement(text) for text in texts]
        assert len({wish.name for wish in wishes}) == len(wishes), extra
        for wish in wishes:
            assert wish.name != "fedstyle" or wish.extras <= set(EXTRAS), extra


def pins():
    """The constraints as name -> version; every line is one exact version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[\w.-]+", name), line
            assert canonicalize_name(name) not in found, f"{name} is pinned twice"
            found[canonicalize_name(name)] = Version(version)
    return found


def test_every_dependency_is_pinned_within_its_range():
    known = pins()
    for text in (text for texts in WANTED for text in texts):
        wish = Requirement(text)
        if wish.name != "fedstyle":
            assert canonicalize_name(wish.name) in known, f"constraints.txt does not pin {wish.name}"
            assert known[canonicalize_name(wish.name)] in wish.specifier, f"constraints.txt pins {wish.name} outside of {text}"
            assert wish.specifier, f"{text} says no version"


def test_no_file_names_the_machine_it_was_made_on():
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = ["/" + place for place in ("work/", "tmp/bash_jobs", "root/")] + ["index" + mark + "url" for mark in "-_"]
    found = []
    for file in filter(None, listed.stdout.split("\0")):
        path = ROOT / file
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content[:8192]:  # as git tells text from the rest
            found += [f"{file}: {place}" for place in places if place.encode() in content]
    assert not found
