"""Packs: functions that share weights, style vectors beside one network, their blends, and each fault that a pack can have."""

import dataclasses
import errno
import getpass
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import export_files as spoil
import numpy as np
import pytest
import torch

from fedstyle.errors import ConfigError, ExportError, OutputError
from fedstyle.export import Unfaithful, blend, coreml, inspect, pack, styles, verify
from fedstyle.export.contract import styles_folder
from fedstyle.export.parity import verify_blend

NAMES = {"Great Wave": "great_wave", "The Scream (1893)": "the_scream_1893", "星空": "style"}


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    return spoil.packs(spoil.packs_folder(tmp_path_factory))


@pytest.fixture(scope="module")
def filters():
    return spoil.shelf()


@pytest.fixture
def copy(packs, tmp_path):
    """A copy of a pack with its style files, to spoil."""

    def make(target):
        source = packs[target].path
        if target == "ios15":
            shutil.copytree(styles_folder(source), tmp_path / styles_folder(source).name)
        return spoil.copied(source, tmp_path)

    return make


def relist(path, edit):
    """Let `edit` change a pack's list of filters."""

    def apply(spec):
        notes = spec.description.metadata.userDefined
        listed = json.loads(notes["styles"])
        edit(listed)
        notes["styles"] = json.dumps(listed)

    spoil.change(path, apply)


def names(folder):
    return sorted(item.name for item in folder.iterdir())


# what stands in a pack


def test_functions_share_the_weights_of_their_base(packs, filters):
    made = packs["ios18"]
    assert {one.name: one.identifier for one in made.filters} == NAMES
    assert all(one.parity.faithful and one.parity.constants == 58 for one in made.filters)
    assert made.blend is made.styles is None
    assert "2 bases" in made.notices[0]
    one, other, stranger = (one.bytes for one in made.filters)
    assert one < 60_000
    assert other < 60_000
    # the third has another padding, which is another base, but convolutions of the same numbers
    convolutions = sum(value.numel() for name, value in filters["星空"].weights.items() if ".norm" not in name)
    shared = (made.path / spoil.INSIDE / "weights" / "weight.bin").stat().st_size
    assert shared < 2 * convolutions * 1.3  # 2 bytes each: they stand there once and not three times, and beside them the norms
    assert stranger < 60_000
    assert made.bytes == sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())


def test_a_pack_shows_its_filters_and_metadata(packs, filters):
    shown = inspect(packs["ios18"].path)
    assert shown["target"] == "ios18"
    assert shown["availability"] == "iOS 18, macOS 15 or later"
    assert [feature["name"] for side in ("inputs", "outputs") for feature in shown[side]] == ["image", "stylizedImage"]
    assert (shown["metadata"]["author"], shown["metadata"]["license"]) == ("Ada", "CC-BY-4.0")
    assert shown["filters"][1] == {
        "name": "The Scream (1893)",
        "function": "the_scream_1893",
        "filter": filters["The Scream (1893)"].sha256,
        "algorithm": "cnnLite",
        "styleStrength": "7",
        "textelDensity": "256",
    }
    shown = inspect(packs["ios15"].path)
    assert (shown["target"], shown["availability"]) == ("ios15", "iOS 15, macOS 12 or later")
    # 388 numbers: 2 for each channel of the norms, with width 4: 8 + 16 + 10 * 16 + 8 + 2 channels
    array = {"name": "style", "type": "multiArray", "number": "float32", "shape": [1, 388, 1, 1]}
    assert shown["inputs"][1].items() >= array.items()
    assert shown["metadata"]["userDefined"]["base"] == styles.base_of(filters["Great Wave"])


def test_style_files_hold_the_norms_in_the_documented_format(packs, filters):
    made = packs["ios15"]
    assert names(made.styles) == ["great_wave.safetensors", "the_scream_1893.safetensors"]
    for one in made.filters:
        header, numbers = spoil.style_file(made.styles / f"{one.identifier}.safetensors")
        assert header["__metadata__"] == {
            "format": "fedstyle-style-1",
            "name": one.name,
            "base": styles.base_of(filters[one.name]),
            "filter": filters[one.name].sha256,
        }
        assert header["style"] == {"dtype": "F32", "shape": [388], "data_offsets": [0, 4 * 388]}
        weights = filters[one.name].weights
        assert numbers[:8].tolist() == weights["down1.norm.weight"].tolist()
        assert numbers[8:16].tolist() == weights["down1.norm.bias"].tolist()
        assert numbers[-2:].tolist() == weights["up2.norm.bias"].tolist()
        assert one.bytes < 2_500
        assert one.parity.faithful
        assert one.parity.constants == 30  # weight and bias of 15 convolutions; the norms are compared in the style file


@pytest.mark.parametrize("target", ["ios18", "ios15"])
def test_each_filter_of_a_pack_is_verified_by_itself(packs, filters, target):
    made = packs[target]
    parities = [verify(made.path, filters[one.name]) for one in made.filters]
    assert all(parity.faithful for parity in parities), parities
    parity = verify(made.path, spoil.variant(filters["Great Wave"], 9))
    assert not parity.faithful
    assert "no filter of these weights: it holds 'Great Wave', 'The Scream (1893)'" in parity.problems[0]


@pytest.mark.parametrize("target", ["ios18", "ios15"])
def test_a_pack_names_no_place_on_this_machine(packs, target):
    made = packs[target]
    files = [file for folder in (made.path, made.styles) if folder for file in folder.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    places = [str(Path(coreml.__file__).parents[2]), str(Path.home()), "/tmp", "site-packages", ".py", getpass.getuser() + "/", "pytest"]
    assert [place for place in places if place.encode() in content] == []
    assert [file.name for file in files if file.suffix == ".json"] == ["Manifest.json"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


def test_identifiers_are_safe_and_unique():
    found = styles.identifiers(["Über Wave!", "uber  wave", "星空", "Ночь", "7 Sisters", "main", "x" * 99, "__"])
    assert list(found.values()) == ["uber_wave", "uber_wave_2", "style", "style_2", "style_7_sisters", "style_main", "x" * 40, "style_3"]


# blending


@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_a_blend_in_the_package_is_the_blend_in_torch(packs, filters, amount):
    first, second = filters["Great Wave"], filters["The Scream (1893)"]
    parity = verify_blend(packs["ios15"].path, first, second, amount)
    assert parity.faithful, parity.problems
    assert parity.psnr > 60
    assert packs["ios15"].blend.faithful
    mixed = blend(first, second, amount)
    expected = (1 - amount) * styles.vector(first) + amount * styles.vector(second)
    assert torch.allclose(styles.vector(mixed), expected, atol=1e-6)
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    far = [float((mixed.stylise(photo) - one.stylise(photo)).abs().mean()) for one in (first, second)]
    assert min(far) > 1e-3  # it is neither of the two


def test_a_blend_that_is_not_linear_is_caught(packs, filters, monkeypatch):
    first, second = filters["Great Wave"], filters["The Scream (1893)"]
    monkeypatch.setattr(styles, "blend", lambda one, other, amount: one)
    assert not verify_blend(packs["ios15"].path, first, second).faithful


def test_what_cannot_be_blended(packs, filters):
    first, second, other = filters.values()
    with pytest.raises(ConfigError, match="0 to 1"):
        blend(first, second, 1.5)
    with pytest.raises(ConfigError, match="different bases: the networks"):
        blend(first, other, 0.5)
    assert "only an ios15 pack blends" in verify_blend(packs["ios18"].path, first, second).problems[0]


# faults


def _swap(listed):
    for key in ("function", "file"):
        if key in listed[0]:
            listed[0][key], listed[1][key] = listed[1][key], listed[0][key]


@pytest.mark.parametrize("target", ["ios18", "ios15"])
def test_filters_under_each_others_names_are_caught(copy, filters, target):
    spoiled = copy(target)
    relist(spoiled, _swap)
    for name in ("Great Wave", "The Scream (1893)"):
        assert not verify(spoiled, filters[name]).faithful


FAULTS = [
    ("ios18", lambda path: relist(path, lambda listed: listed[0].update(function="gone")), "no function 'gone'"),
    ("ios18", lambda path: relist(path, lambda listed: listed[0].update(styleStrength="9")), "styleStrength is '9'"),
    ("ios18", lambda path: relist(path, lambda listed: listed[0].pop("name")), "list of filters cannot be read"),
    ("ios18", lambda path: spoil.flip(path, 5000), "cut short|differs|cannot be read"),
    ("ios15", lambda path: relist(path, lambda listed: listed[0].update(file="../a.safetensors")), "outside"),
    ("ios15", lambda path: (styles_folder(path) / "great_wave.safetensors").unlink(), "cannot be read"),
    ("ios15", lambda path: (styles_folder(path) / "great_wave.safetensors").write_bytes(b"x" * 99), "no style file"),
    (
        "ios15",
        lambda path: spoil.change(path, lambda spec: spec.description.metadata.userDefined.update({"base": "other"})),
        "metadata base",
    ),
    (
        "ios15",
        lambda path: spoil.change(path, lambda spec: spec.description.input[1].type.multiArrayType.shape.append(2)),
        "expected a multiArray float32 1x388x1x1",
    ),
]


@pytest.mark.parametrize(("target", "change", "words"), FAULTS)
def test_a_fault_is_caught(copy, filters, target, change, words):
    import re

    spoiled = copy(target)
    change(spoiled)
    parity = verify(spoiled, filters["Great Wave"])
    assert not parity.faithful
    assert re.search(words, " ".join(parity.problems)), parity.problems


def test_one_changed_number_of_a_style_file_is_caught(copy, filters):
    spoiled = copy("ios15")
    file = styles_folder(spoiled) / "great_wave.safetensors"
    header, numbers = spoil.style_file(file)
    changed = numbers.copy()
    changed[5] = np.nextafter(changed[5], np.float32(9))
    file.write_bytes(file.read_bytes()[: -numbers.nbytes] + changed.tobytes())
    parity = verify(spoiled, filters["Great Wave"])
    assert "differs from the filter's norms in 1 of 388 values" in " ".join(parity.problems)
    assert "good" not in header


# what cannot be packed, and what is left then


def test_an_ios15_pack_needs_one_base(tmp_path, filters):
    with pytest.raises(ExportError, match=r"'星空' does not stand on the base of 'Great Wave'.*padding zeros.*--target ios18"):
        pack(filters, tmp_path / "a.mlpackage", target="ios15", size=64)
    first = filters["Great Wave"]
    moved = dataclasses.replace(first, weights={name: value + (".conv.weight" in name) * 0.1 for name, value in first.weights.items()})
    with pytest.raises(ExportError, match=r"blocks.0.first.conv.weight, .* and 12 more of 30 arrays differ"):
        pack({"a": first, "b": moved}, tmp_path / "a.mlpackage", target="ios15", size=64)
    assert names(tmp_path) == []


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, filters):
    first = filters["Great Wave"]
    for chosen, name, options in [
        ({}, "a.mlpackage", {}),
        ({"a": first}, "a.mlmodel", {}),
        ({"a": first}, "a.mlpackage", {"target": "ios12"}),
        ({"a": first}, "a.mlpackage", {"size": 66}),
        ({"a": first}, "a.mlpackage", {"metadata": {"colour": "red"}}),
        ({"a": first, "b": first}, "a.mlpackage", {}),
        ({" ": first}, "a.mlpackage", {}),
        ({"a\nb": first}, "a.mlpackage", {}),
    ]:
        with pytest.raises(ConfigError) as caught:
            pack(chosen, tmp_path / name, **options)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("target", "taken"), [("ios18", "a.mlpackage"), ("ios15", "a.mlpackage"), ("ios15", "a.styles")])
def test_nothing_is_overwritten(tmp_path, filters, target, taken):
    (tmp_path / taken).mkdir()
    with pytest.raises(OutputError, match="exists already"):
        pack({"a": filters["Great Wave"]}, tmp_path / "a.mlpackage", target=target, size=64)
    assert names(tmp_path) == [taken]


@pytest.fixture
def ready(packs, monkeypatch):
    """No conversion: the network of the ios15 pack stands ready."""
    monkeypatch.setattr(coreml, "write", lambda made, path, *_, **__: shutil.copytree(packs["ios15"].path, path))


def test_an_unfaithful_filter_leaves_nothing(ready, tmp_path, filters, monkeypatch):
    pair = {name: filters[name] for name in ("Great Wave", "The Scream (1893)")}
    bad = SimpleNamespace(faithful=False, problems=(f"{tmp_path} is odd",))
    monkeypatch.setitem(pack.__globals__, "verify", lambda path, made: bad)
    with pytest.raises(Unfaithful, match="not faithful to 'Great Wave', so nothing was written"):
        pack(pair, tmp_path / "a.mlpackage", target="ios15", size=64)
    assert names(tmp_path) == []


@pytest.mark.parametrize("victim", ["a.mlpackage", "a.styles"])
def test_a_failure_at_the_last_moment_leaves_nothing(ready, tmp_path, filters, monkeypatch, victim):
    replace = os.replace

    def fail(source, target):
        if Path(target) == tmp_path / victim:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr("os.replace", fail)
    pair = {name: filters[name] for name in ("Great Wave", "The Scream (1893)")}
    with pytest.raises(OutputError, match="no space left"):
        pack(pair, tmp_path / "a.mlpackage", target="ios15", size=64)
    assert names(tmp_path) == []


def test_the_report_is_json(packs):
    facts = json.loads(json.dumps([made.as_dict() for made in packs.values()], allow_nan=False))
    assert facts[0]["styles"] is None
    assert facts[1]["styles"].endswith("Mix.styles")
    assert facts[1]["blend"]["faithful"] is True


def test_the_example_of_the_page_runs(tmp_path, filters, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "clients" / "PACKS.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 12
    for name, filter in zip(("Waves", "Scream"), filters.values(), strict=False):
        filter.save(tmp_path / "filters" / name)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("size=512", "size=64"), {})
    assert "Waves waves" in capsys.readouterr().out
    assert names(tmp_path / "Shelf.styles") == ["scream.safetensors", "waves.safetensors"]
    assert (tmp_path / "filters" / "Both" / "filter.json").exists()


@pytest.mark.soak
@pytest.mark.parametrize("arch", ["cnn", "cnnLite"])
def test_a_further_filter_of_real_size_adds_at_most_60_kb(tmp_path, arch):
    from fedstyle import Base, Filter

    base = Base.shipped(arch)
    first = Filter(base.arch, base.padding, base.transform())
    made = pack({"a": first, "b": spoil.variant(first, 1), "c": spoil.variant(first, 2)}, tmp_path / "a.mlpackage", size=256)
    single = pack({"a": first}, tmp_path / "b.mlpackage", size=256)
    assert made.bytes - single.bytes <= 2 * 60_000
    assert max(one.bytes for one in made.filters) <= 60_000
