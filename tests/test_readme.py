"""What the documents promise: the README's Python runs, commands parse, links lead somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from fedstyle.base import Base
from fedstyle.cli import cli
from fedstyle.config import Config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += sorted([*(ROOT / "clients").rglob("README.md"), *(ROOT / "simulation").rglob("README.md")])
WITH_COMMANDS = [*DOCUMENTS, *sorted((ROOT / "simulation").rglob("*.toml"))]
QUICKSTART = ROOT / "simulation" / "quickstart" / "quickstart.toml"


def name(path):
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------------------------------------------ Python


def block():
    """The README's Python block."""
    (found,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch, photo_folder, style_image):
    """A folder with what the block names: photos, a style image and a base."""
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(photo_folder)
    style_image.save("painting.jpg")
    Base.new(width=4).save(Path("runs/demo/base"))
    return tmp_path


def run(code, capsys):
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    *progress, parity = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r" *\d+%  \d+\.\d{3}", line) for line in progress)
    assert progress[-1].startswith("100%")
    assert parity.startswith("Parity(faithful=True, precision='fp16'")
    assert names["package"] == Path("painting.mlpackage")
    assert names["package"].is_dir()
    return names, progress


def test_the_python_block_runs_with_fewer_iterations(place, capsys):
    shorter, count = re.subn(r"iterations=\d+", "iterations=2", block())
    assert count == 1
    names, progress = run(shorter, capsys)
    assert len(progress) == 2
    assert not any("norm" in name for name in names["update"].delta)  # "everything that may leave", as the README says


@pytest.mark.soak
def test_the_python_block_runs_as_it_stands(place, capsys):
    run(block(), capsys)


# ------------------------------------------------------------------------------------------------------ commands


def commands(path):
    """The `fedstyle ...` command lines of a document's shell blocks and code spans, or of a TOML's comments."""
    text = path.read_text()
    if path.suffix == ".toml":
        text = "\n".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))
        blocks, spans = [text], []
    else:
        blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    called = re.compile(r"(?:\$ )?((?:\.venv/bin/)?fedstyle [a-z].*)")
    return [found[1] for line in [*lines, *spans] if (found := called.fullmatch(line)) and not line.endswith(".")]


def test_commands_are_found():
    assert len(commands(ROOT / "README.md")) >= 5
    assert commands(QUICKSTART) == ["fedstyle simulate simulation/quickstart/quickstart.toml --out runs/mine"]
    joined = [line for line in commands(ROOT / "simulation" / "paintings" / "paintings.toml") if "data.photos=" in line]
    assert joined
    assert "loss.weights" in joined[0]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=name)
def test_commands_parse_and_their_overrides_fit_the_configuration(path):
    for line in commands(path):
        words = shlex.split(line, comments=True)
        assert words[1] in cli.commands, line
        if len(words) == 2:  # prose that names a command
            continue
        with click.Context(cli, info_name="fedstyle") as parent:
            given = cli.commands[words[1]].make_context(words[1], words[2:], parent=parent).params
        if words[1] == "simulate":
            config = given["config"]
            if config and config.parts[0] == "simulation":  # without, a run is taken up
                assert (ROOT / config).is_file(), line
            Config.load(QUICKSTART, [text for text in given["overrides"] if "..." not in text])


# ------------------------------------------------------------------------------------------------------ links


def tracked():
    """The files of the repository, those that git does not know yet included; in an unpacked archive, all files."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        return {path for path in ROOT.rglob("*") if path.is_file()}
    return {ROOT / file for file in listed.stdout.split("\0") if file and (ROOT / file).is_file()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_relative_links_lead_to_files_of_the_repository(path):
    files = tracked()
    places = files | {folder for file in files for folder in file.parents}
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(<?([^)>\s]+)", text) + re.findall(r"""(?:src|href)=["']([^"']+)""", text):
        if not re.match(r"[a-z]+:", target) and (file := target.partition("#")[0]):
            assert (path.parent / file).resolve() in places, f"{name(path)} links to {target}, which is not there"
