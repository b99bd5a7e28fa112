"""What a person reads: the help of every command."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from fedstyle.cli import cli

OPTIONS = {
    "simulate": "--out --set --dry-run --json --resume --tensorboard",
    "personalize": "--photos --style --out --base --net --mode --iterations --full --strength --density"
    " --validation --session --seed --json --processing --report",
    "stylize": "--out --side --full-size --memory",
    "export": "--out --size --precision --compress --author --license --version --description",
    "pack": "--out --target --size --json",
    "verify": "--against --json",
    "evaluate": "--photos --style --features --weights --json",
    "inspect": "--json",
    "methods": "--json",
    "compare": "--out --json",
    "audit": "--out --set --json --trials --filters --members --others --photos --canaries",
}
"""The design's table of commands."""


def parse(line):
    """Take a command line apart as click would, without running it."""
    words = shlex.split(line.partition("  #")[0])
    assert words[0].endswith("fedstyle"), line
    with click.Context(cli, info_name="fedstyle") as parent:
        cli.commands[words[1]].make_context(words[1], words[2:], parent=parent)


def test_every_command_of_the_design_is_there():
    assert set(OPTIONS) <= set(cli.commands)


@pytest.mark.parametrize("name", cli.commands)
def test_help_names_the_options_and_ends_with_an_example_that_parses(name):
    shown = CliRunner().invoke(cli, [name, "--help"], prog_name="fedstyle")
    assert shown.exit_code == 0
    assert set(OPTIONS.get(name, "").split()) <= set(re.findall(r"--[a-z-]+", shown.stdout))
    *_, head, example = shown.stdout.rstrip().splitlines()
    assert head.strip() == "Example:"
    assert example.strip().startswith(f"fedstyle {name} ")
    parse(example)
    undocumented = [one.name for one in cli.commands[name].params if isinstance(one, click.Option) and not one.help]
    assert not undocumented


def test_the_programs_own_help_ends_with_an_example():
    shown = CliRunner().invoke(cli, ["--help"], prog_name="fedstyle").stdout.rstrip().splitlines()
    assert shown[-2].strip() == "Example:"
    parse(shown[-1])
    assert not [line for line in shown[1:] if line.endswith("...")], "a command's first sentence is too long for the list"
