"""Each name, shape and file format of the Swift package, against exports made here: no Swift compiler is at hand."""

import re
from pathlib import Path

import coremltools as ct
import export_files as spoil
import pytest

from fedstyle.export import coreml, inspect, styles
from fedstyle.net import STRIDE, TransformNet

IOS = Path(__file__).parents[1] / "clients" / "ios"
SOURCES = IOS / "Sources" / "FedstyleKit"


def swift(name):
    return (SOURCES / name).read_text()


@pytest.fixture(scope="module")
def contract():
    """The constants of Contract.swift, as Python values."""
    found = {}
    for name, value in re.findall(r"public static let (\w+) = (.+)", swift("Contract.swift")):
        found[name] = value[1:-1] if value.startswith('"') else int(value)
    return found


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    return spoil.packs(spoil.packs_folder(tmp_path_factory))


def spec(path):
    model = ct.proto.Model_pb2.Model()
    model.ParseFromString(spoil.model_file(path).read_bytes())
    return model


def test_features_and_metadata_are_those_of_exports(contract, exports, packs):
    single, many, styled = spec(exports["fp16.mlpackage"]), spec(packs["ios18"].path), spec(packs["ios15"].path)
    image = [contract["imageInput"]]
    assert [one.name for one in single.description.input] == image
    for function in many.description.functions:
        assert [one.name for one in function.input] == image
        assert [one.name for one in function.output] == [contract["imageOutput"]]
    assert [one.name for one in styled.description.input] == [*image, contract["styleInput"]]
    assert [one.name for one in styled.description.output] == [contract["imageOutput"]]
    assert contract["algorithmKey"] in single.description.metadata.userDefined
    for model, keys in ((single, set()), (many, {"listKey"}), (styled, {"listKey", "baseKey"})):
        notes = model.description.metadata.userDefined
        assert {key for key in ("listKey", "baseKey") if contract[key] in notes} == keys


def test_the_style_input_is_what_the_swift_code_makes(contract, packs):
    array = spec(packs["ios15"].path).description.input[1].type.multiArrayType
    assert array.dataType == array.FLOAT32  # MLShapedArray<Float>
    length = len(spoil.style_file(packs["ios15"].styles / "great_wave.safetensors")[1])
    assert list(array.shape) == [1, length, 1, 1]
    assert "MLShapedArray<Float>(scalars: style.vector, shape: [1, styleLength, 1, 1])" in swift("Stylizer.swift")
    for arch in ("cnn", "cnnLite"):
        assert contract[f"{arch}StyleLength"] == 2 * sum(styles.norms(TransformNet(arch)).values())
        assert f"{contract[f'{arch}StyleLength']:,} for `{arch}`" in (IOS / "README.md").read_text()


def test_the_style_file_is_what_the_swift_code_reads(contract, packs):
    folder = packs["ios15"].styles
    assert folder.name == f"{packs['ios15'].path.stem}.{contract['stylesFolderExtension']}"
    code = swift("StyleFile.swift")
    for file in folder.iterdir():
        assert file.suffix == f".{contract['styleFileExtension']}"
        header, numbers = spoil.style_file(file)  # 8 bytes of length, header, float32: what the initialiser does step by step
        assert header.keys() == {"__metadata__", contract["styleInput"]}
        assert header["__metadata__"]["format"] == contract["styleFileFormat"]
        tensor = header[contract["styleInput"]]
        assert tensor["dtype"] == contract["styleFileType"]
        assert tensor["shape"] == [len(numbers)]
        assert tensor["data_offsets"] == [0, numbers.nbytes]
        fields = set(re.findall(r"let (\w+): String\n", code.split("struct Notes")[1].split("}")[0]))
        assert fields == {"format", "name", "base"} <= header["__metadata__"].keys()
        assert set(re.findall(r'case \w+ = "(\w+)"', code)) == {"__metadata__", "dtype", "data_offsets"}


def test_the_packs_list_is_what_the_swift_code_decodes(packs):
    body = swift("Pack.swift").split("struct PackedFilter")[1].split("\n}")[0]
    fields = dict(re.findall(r"let (\w+): (String\??)", body))
    required = {name for name, kind in fields.items() if kind == "String"}
    for made in packs.values():
        for entry in inspect(made.path)["filters"]:
            assert required <= entry.keys() <= fields.keys()
            assert all(isinstance(value, str) for value in entry.values())


def test_the_first_filter_is_the_default_function(packs):
    model = spec(packs["ios18"].path)
    assert model.description.defaultFunctionName == packs["ios18"].filters[0].identifier
    assert {one.name for one in model.description.functions} == {one.identifier for one in packs["ios18"].filters}


def test_limits_and_systems(contract):
    assert contract["sideMultiple"] == STRIDE
    assert (contract["smallestSide"], contract["largestSide"]) == (coreml.SMALLEST, coreml.LARGEST)
    package = (IOS / "Package.swift").read_text()
    assert ".iOS(.v15)" in package  # the oldest system of an .mlpackage of fedstyle
    assert "iOS 18.0, macOS 15.0" in swift("Stylizer.swift")


def test_every_constant_of_the_contract_is_checked_here():
    checked = Path(__file__).read_text()
    for name in re.findall(r"static let (\w+)", swift("Contract.swift")):
        assert name in checked or name in ("cnnStyleLength", "cnnLiteStyleLength"), name


def test_every_file_is_balanced_and_the_readme_is_honest():
    for file in IOS.rglob("*.swift"):
        code = re.sub(r'"(\\.|[^"\\])*"|//[^\n]*', "", file.read_text())
        for pair in ("()", "[]", "{}"):
            assert code.count(pair[0]) == code.count(pair[1]), (file, pair)
    readme = (IOS / "README.md").read_text()
    assert "not run on Apple hardware" in readme
    assert "Which devices train, which apply" in readme
