"""The command line from outside: what is written, what is said, and the exit code."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import picture
from PIL import Image

from fedstyle.base import Base
from fedstyle.cli import cli, terminal
from fedstyle.cli.personal import MODES
from fedstyle.filter import Filter
from fedstyle.net import ARCHITECTURES
from fedstyle.perceptual import FEATURES

PROGRAM = [sys.executable, "-c", "from fedstyle.cli import main; main()"]


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch):
    monkeypatch.delenv("FEDSTYLE_DEBUG", raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory, photo_folder, style_image, base, small):
    """A folder with photos/, style.png, base/ (cnnLite, 4 channels wide), filter/ (made by hand) and what bad input needs."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(photo_folder, folder / "photos")
    style_image.save(folder / "style.png")
    base.save(folder / "base")
    Base.new("cnn", width=4).save(folder / "classic")
    small.save(folder / "filter")
    (folder / "none").mkdir()
    (folder / "none" / "notes.jpg").write_text("no photo")
    (folder / "words.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "style.png").read_bytes()[:100])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "run").mkdir()
    (folder / "run" / "summary.json").write_text("{}")
    return folder


@pytest.fixture
def at(home, tmp_path, monkeypatch):
    """The home as links in an own folder, which is the working folder; `at()` lists what a test has made there."""
    for item in home.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    return lambda: sorted(set(names(tmp_path)) - set(before))


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def call(line, **extra):
    return CliRunner().invoke(cli, line.split(), prog_name="fedstyle", **extra)


def fails(result, code, *words):
    """The exit code, one line on standard error with these words, and nothing else."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("fedstyle: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    return True


PERSONALIZE = "personalize --photos photos --style style.png --base base --density 64 --iterations 1"


def test_choices_are_those_of_the_library():
    assert terminal.FEATURES.choices == FEATURES
    (net,) = (one for one in cli.commands["personalize"].params if one.name == "net")
    assert net.type.choices == ARCHITECTURES


def test_help_and_version_load_no_torch():
    code = (
        "import sys; from fedstyle.cli import cli; cli.main(['personalize', '--help'], prog_name='fedstyle')"
        " if sys.argv[1:] else print(sorted(sys.modules.keys() & {'torch', 'numpy', 'PIL', 'flwr', 'rich'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
    assert call("--version").stdout == f"fedstyle {__import__('fedstyle').__version__}\n"


def test_main_turns_telemetry_off_and_keeps_what_a_user_set(monkeypatch):
    code = (
        "import atexit, os; from fedstyle.cli import main;"
        "names = 'FLWR_TELEMETRY_ENABLED', 'FLWR_DISABLE_UPDATE_CHECK', 'RAY_USAGE_STATS_ENABLED';"
        "atexit.register(lambda: print(*(os.environ[name] for name in names)));"
        "main()"
    )
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", code, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 1 1"


# personalize


def test_personalize_writes_a_filter_and_says_what_it_did(at, base):
    done = call(f"{PERSONALIZE} --out filters/mine --validation photos/0.png")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert "trained the private norms for 1 iterations on 3 photos" in done.stdout
    assert at() == ["filters"]
    assert names("filters/mine") == ["filter.json", "filter.safetensors"]
    made = Filter.load("filters/mine")
    changed = {name for name, value in made.weights.items() if not value.equal(base.weights[name])}
    assert changed  # one Adam step
    assert all(".norm" in name for name in changed)
    assert made.facts["losses"].keys() == made.facts["validation"].keys() == {"content", "style", "total"}
    text = Path("filters/mine/filter.json").read_text()
    assert not [word for word in ("photos", "style.png", str(Path.cwd()), "time") if word in text]


def test_personalize_prints_json_alone_and_repeats_itself(at):
    results = []
    for out in ("one", "two"):
        done = call(f"{PERSONALIZE} --out {out} --seed 3 --full --json")
        assert done.exit_code == 0
        results.append(json.loads(done.stdout))
        assert results[-1]["filter"] == out
    assert (results[0]["trained"], results[0]["iterations"], results[0]["photos"], results[0]["skipped"]) == ("all", 1, 3, {})
    assert Path("one/filter.safetensors").read_bytes() == Path("two/filter.safetensors").read_bytes()
    assert Path("one/filter.json").read_text() == Path("two/filter.json").read_text()


def test_personalize_starts_from_the_base_that_fedstyle_carries(at, shipped):
    from fedstyle import Client, Style, Training

    line = PERSONALIZE.replace("--base base ", "")
    done = call(f"{line} --out mine")
    assert done.exit_code == 0, done.stderr
    assert "trained the private norms for 1 iterations on 3 photos" in done.stdout
    assert "s, from the base that fedstyle carries" in done.stdout
    report = json.loads(call(f"{line} --out same --net cnnLite --json").stdout)
    assert (report["base"], report["trained"], report["architecture"]) == ("shipped", "private", "cnnLite")
    made = Filter.load("mine")
    assert report["filter_sha256"] == made.sha256
    assert made.facts["base_sha256"] == shipped.sha256
    # Its norms begin as predicted for the style, and move at the rates that the base advises.
    look = Style("style.png", strength=None, density=64)  # without --strength it is chosen
    client = Client(None, "photos", look, training=Training(rate=5e-3, norm_rate=4e-2, warmup=0))
    assert made.sha256 == client.personalize(shipped, iterations=1).result().sha256
    assert report["strength"] == made.facts["strength"] == client.choose_strength(shipped)
    assert f"strength {report['strength']}, chosen for this style and these photos; --strength sets another" in done.stdout
    assert fails(call(f"{line} --out new --net cnn"), 2, "fedstyle carries no base for 'cnn'", "train from nothing with --base none")
    assert at() == ["mine", "same", "weights inside"]


def test_a_report_names_the_base(at, base):
    assert json.loads(call(f"{PERSONALIZE} --out mine --json").stdout)["base"] == base.sha256
    assert "s, from the base base\n" in call(f"{PERSONALIZE} --out other").stdout


def test_advice_of_a_base_that_cannot_be_used_is_a_mistake(at, base):
    Base(base.arch, base.padding, base.weights, {"personal": {"rate": 3}}).save(Path("odd"))
    assert fails(call(f"{PERSONALIZE.replace('--base base', '--base odd')} --out new"), 2, "training.rate = 3.0: a learning rate")
    assert at() == ["odd"]


def test_the_modes_are_those_of_the_design():
    from fedstyle import config, session

    assert MODES == session.MODES == {"quick": 25, "standard": 100, "best": 500}
    (processing,) = (one for one in cli.commands["personalize"].params if one.name == "processing")
    assert set(processing.type.choices) == set(config.PROCESSING)


def test_personalize_reports_on_standard_error_and_goes_on(at, photo_folder):
    line = PERSONALIZE.replace("--iterations 1", "--iterations")
    first = call(f"{line} 3 --out one --session kept --report 2 --strength 5")
    assert first.exit_code == 0, first.stderr
    said = re.findall(r"^iteration (\d of 3, \d+%): content \d\.\d{4}, style \d+\.\d{4}, total \d+\.\d{4}$", first.stderr, re.MULTILINE)
    assert said == ["2 of 3, 67%", "3 of 3, 100%"]
    assert "stood in the session" not in first.stdout
    assert "chosen" not in first.stdout
    more = call(f"{line} 4 --out two --session kept --strength 5")
    assert "trained the private norms for 4 iterations" in more.stdout
    assert "the first 3 of them stood in the session kept" in more.stdout
    assert more.stderr == ""
    assert fails(call(f"{line} 4 --out three --session kept --strength 5 --processing scale-fit"), 2, "kept was begun with other photos")
    assert fails(call(f"{line} 4 --out three --strength 5 --validation words.png"), 2, "words.png")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_iteration_at_hand_and_the_same_command_goes_on(at, monkeypatch, kind):
    from fedstyle.job import Job

    whole = call(f"{PERSONALIZE.replace('--iterations 1', '--iterations 3')} --out whole --strength 5")
    assert whole.exit_code == 0, whole.stderr
    line = f"{PERSONALIZE.replace('--iterations 1', '--iterations 3')} --out mine --session kept --strength 5"
    advance = Job._advance
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_advance", lambda job: (os.kill(os.getpid(), kind) if job.progress.iteration == 1 else None, advance(job))[1])
        stopped = call(line)
    assert fails(stopped, 130, "interrupted after iteration 1: the same command goes on from there")
    assert signal.getsignal(kind) in (signal.SIG_DFL, signal.default_int_handler)
    assert not Path("mine").exists()
    again = call(line)
    assert again.exit_code == 0, again.stderr
    assert "the first 1 of them stood in the session kept" in again.stdout
    assert Path("mine/filter.safetensors").read_bytes() == Path("whole/filter.safetensors").read_bytes()


def test_personalize_from_nothing_trains_everything(at):
    done = call(f"{PERSONALIZE.replace('--base base', '--base none')} --out mine --json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["trained"], report["base"]) == ("all", "none")
    made, start = Filter.load("mine"), Base.new("cnnLite")
    assert made.facts["base_sha256"] == start.sha256
    assert not made.weights["down1.conv.weight"].equal(start.weights["down1.conv.weight"])


def test_a_finished_session_gives_the_same_filter_at_once(at, monkeypatch):
    assert call(f"{PERSONALIZE} --out one --session kept --validation photos/1.png").exit_code == 0
    with Image.open("kept/preview-000001.png") as preview:
        assert preview.size == (96, 80)
    monkeypatch.setattr("fedstyle.perceptual.Objective.__call__", None)  # no iteration can run
    again = call(f"{PERSONALIZE} --out two --session kept")
    assert again.exit_code == 0, again.stderr
    assert Path("one/filter.safetensors").read_bytes() == Path("two/filter.safetensors").read_bytes()
    assert fails(call(f"{PERSONALIZE} --out three --session kept --seed 1"), 2, "kept was begun with other")
    assert fails(call(f"{PERSONALIZE} --out three --session three/kept"), 2, "lies in --out three")
    assert at() == ["kept", "one", "two"]


def test_a_density_between_the_steps_gives_a_notice_of_one_line(at):
    done = call(f"{PERSONALIZE.replace('--density 64', '--density 67')} --out mine --json")
    assert done.stderr == "fedstyle: notice: style density 67 is no multiple of 4: taken as 64\n"
    assert json.loads(done.stdout)["density"] == 64


def test_ctrl_c_keeps_the_session_and_exits_130(at):
    line = f"{PERSONALIZE.replace('--iterations 1', '--iterations')} 100000 --out mine --session kept".split()
    with subprocess.Popen([*PROGRAM, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 300
        while not Path("kept/session.json").exists() and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert out == ""
    done = int(err.removeprefix("fedstyle: interrupted after iteration ").split(":")[0])
    assert err == f"fedstyle: interrupted after iteration {done}: the same command goes on from there\n"
    assert at() == ["kept"]
    assert Path(f"kept/checkpoint-{done:06d}.safetensors").exists()


def test_ctrl_c_without_a_session_leaves_nothing(at, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedstyle.perceptual.Objective.__call__", stop)
    assert fails(call(f"{PERSONALIZE} --out mine"), 130, "interrupted: no filter was written", "--session DIR")
    monkeypatch.setattr("fedstyle.filter.Filter.stylise", stop)
    assert fails(call("stylize filter photos/0.png --out new.png"), 130, "interrupted: nothing is left half-written")
    assert at() == []


# stylize and evaluate


def test_stylize_keeps_the_size_and_drops_the_metadata(at):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "at home", 6  # a description, and an orientation: the picture lies on its side
    exif.get_ifd(0x8825)[1] = "N"
    picture(7, (98, 71)).save("holiday.JPG", "JPEG", exif=exif, comment=b"private")
    done = call("stylize filter holiday.JPG --out new.jpg")
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"wrote new.jpg in \d+\.\d s\n", done.stdout)
    with Image.open("new.jpg") as result:
        assert (result.format, result.mode, result.size) == ("JPEG", "RGB", (71, 98))
        assert not result.getexif()
        assert not {"exif", "comment", "icc_profile"} & result.info.keys()
    assert call("stylize filter photos/0.png --out new.png").exit_code == 0
    assert fails(call("stylize filter photos/1.png --out new.png"), 2, "new.png exists already")
    with Image.open("photos/0.png") as photo, Image.open("new.png") as result:
        assert result.tobytes() == Filter.load("filter")(photo).tobytes()


def test_stylize_many_into_a_folder_all_or_none(at):
    picture(7, (64, 64)).save("a.jpg")
    assert call("stylize filter photos/0.png photos/1.png a.jpg --out new").exit_code == 0
    assert names("new") == ["0.png", "1.png", "a.jpg"]
    assert call("stylize filter photos/2.png --out new").exit_code == 0
    assert fails(call("stylize filter photos/2.png a.jpg --out new"), 2, "new/2.png exists already")
    assert fails(call("stylize filter photos/0.png words.png --out other"), 2, "words.png", "is not an image")
    assert fails(call("stylize filter photos/0.png photos/1.png --out other.png"), 2, "give a folder")
    picture(7).save("0.png")
    assert fails(call("stylize filter photos/0.png 0.png --out other"), 2, "two photos would both be written as 0.png")
    assert fails(call("stylize filter a.jpg --out new.gif"), 2, ".png, .jpg")
    assert at() == ["0.png", "a.jpg", "new"]


def test_stylize_a_folder_goes_on_past_bad_files_and_where_it_stopped(at):
    library = Path("library")
    (library / "sub").mkdir(parents=True)
    picture(1, (70, 64)).save(library / "sub" / "a.jpg")
    picture(2, (70, 64)).save(library / "b.webp")
    picture(3, (70, 64)).save(library / "b.png")
    (library / "cut.jpg").write_bytes((library / "sub" / "a.jpg").read_bytes()[:300])
    done = call("stylize filter library photos/0.png --out new")
    assert done.exit_code == 0, done.stderr
    *skipped, last = done.stdout.splitlines()
    assert len(skipped) == 1
    assert skipped[0].startswith("skipped: library/cut.jpg is damaged")
    assert re.fullmatch(r"wrote 4 photos to new in \d+\.\d s, skipped 1", last)
    assert sorted(str(path) for path in Path("new").rglob("*.*")) == ["new/0.png", "new/b.png", "new/b.webp.png", "new/sub/a.jpg"]
    Path("new/b.png").unlink()
    assert ", skipped 1, 3 there already" in call("stylize filter library photos/0.png --out new").stdout
    with Image.open(library / "b.png") as photo, Image.open("new/b.png") as result:
        assert result.tobytes() == Filter.load("filter")(photo).tobytes()
    assert fails(call("stylize filter library --out library/new"), 2, "lies in library, among the photos")
    assert fails(call("stylize filter library --out new.png"), 2, "give a folder")
    assert fails(call("stylize filter none --out other"), 2, "no photo could be stylized", "notes.jpg is not an image")
    assert at() == ["library", "new"]


def test_stylize_writes_no_result_over_another(at):
    for place, seed in (("one", 1), ("two", 2)):
        Path(place).mkdir()
        picture(seed, (70, 64)).save(Path(place, "a.jpg"))
    assert fails(call("stylize filter one two --out new"), 2, "one/a.jpg and two/a.jpg would both be written as new/a.jpg")
    assert fails(call("stylize filter one two/a.jpg --out new"), 2, "would both be written as new/a.jpg")
    assert at() == ["one", "two"]
    assert "wrote 1 photos" in call("stylize filter one one/a.jpg --out new").stdout  # named twice, made once


def test_stylize_takes_a_size_a_limit_and_a_video(at, monkeypatch):
    from fedstyle import stylising, video

    assert call("stylize filter photos/0.png --out small.png --side 32").exit_code == 0
    with Image.open("photos/0.png") as photo, Image.open("small.png") as result:
        assert result.tobytes() == Filter.load("filter")(photo, side=32).tobytes()
    monkeypatch.setattr(stylising, "SIDE", 40)
    assert (
        "; stylised at 96x80 pixels: strokes are 2.0 times as small"
        in call("stylize filter photos/0.png --out full.png --full-size").stdout
    )
    picture(1, (1000, 800)).save("large.png")
    with monkeypatch.context() as patch:
        patch.setattr("fedstyle.picture._decode", None)  # it is refused before it takes the memory
        assert fails(call("stylize filter large.png --out new.png --memory 10"), 2, "large.png", "within 10 MB of memory: allow 16 MB")
    made = video.StylizedVideo(Path("new.mp4"), 24, (64, 48), True, 1.25)
    monkeypatch.setattr(video, "stylize_video", lambda *_, **how: made if (how["side"], how["memory"]) == (256, 1000) else None)
    assert call("stylize filter clip.mov --out new.mp4 --side 256").stdout == "wrote new.mp4: 24 frames in 1.2 s, with sound\n"
    assert at() == ["full.png", "large.png", "small.png"]


def test_evaluate_judges_as_the_filter_was_trained(at):
    from fedstyle.client import Client
    from fedstyle.config import Loss
    from fedstyle.style import Style

    done = call("evaluate filter --photos photos --style style.png --json")
    assert done.exit_code == 0, done.stderr
    plain = json.loads(done.stdout)
    assert list(plain) == ["content", "style", "total"]
    assert plain["total"] == pytest.approx(plain["content"] + 10 * plain["style"])  # weights 1 and 10, strength 5: 2 ** 0
    made = Filter.load("filter")
    loss = {"features": "tiny", "content": 2.0, "style": 0.5, "layers": [1.0, 0.0, 0.0], "strength": 6, "density": 64}
    Filter(made.arch, made.padding, made.weights, {"loss": loss}).save("other")
    other = json.loads(call("evaluate other --photos photos --style style.png --json").stdout)
    assert other["content"] == plain["content"]
    assert other["total"] == pytest.approx(2 * other["content"] + 0.5 * 2.0 * other["style"])
    library = Client(None, "photos", Style("style.png", strength=6, density=64), loss=Loss(layers=(1.0, 0.0, 0.0)))
    assert other["style"] == library.evaluate(made, library.library)["style"]
    assert "on 3 photos, judged by tiny at strength 6 and density 64" in call("evaluate other --photos photos --style style.png").stdout


# export and verify


def test_export_is_verified_before_it_stands(at, small, monkeypatch):
    done = call("export filter --out models/Mine.mlmodel --size 64x48 --author Ada --license MIT --version 2 --description hello")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("wrote models/Mine.mlmodel, verified: fp32, 58 arrays equal")
    assert names("models") == ["Mine.mlmodel"]
    facts = json.loads(call("inspect models/Mine.mlmodel --json").stdout)
    assert facts["kind"] == "exported model"
    assert {key: facts["metadata"][key] for key in ("author", "license", "version", "description")} == {
        "author": "Ada",
        "license": "MIT",
        "version": "2",
        "description": "hello",
    }
    assert (facts["inputs"][0]["width"], facts["inputs"][0]["height"]) == (64, 48)
    assert "58 arrays equal" in call("verify models/Mine.mlmodel --against filter").stdout
    assert json.loads(call("verify models/Mine.mlmodel --against filter --json").stdout)["faithful"] is True
    weights = {name: value * 1.05 if name == "down2.norm.weight" else value for name, value in small.weights.items()}
    Filter(small.arch, small.padding, weights, small.facts).save("strong")
    assert fails(call("verify models/Mine.mlmodel --against strong"), 1, "not faithful to strong", "down2.norm.weight")
    shown = call("verify models/Mine.mlmodel --against strong --json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["faithful"] is False
    assert fails(call("export filter --out models/Mine.mlmodel"), 2, "exists already")
    monkeypatch.setattr("fedstyle.export.verify", lambda path, made: SimpleNamespace(faithful=False, problems=(f"{path} is odd",)))
    monkeypatch.setattr("fedstyle.export.export", lambda made, path, **_: path.write_bytes(b""))
    assert fails(call("export filter --out Other.mlmodel"), 1, "nothing was written to Other.mlmodel: Other.mlmodel is odd")
    assert at() == ["models", "strong"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("export filter --out X.tflite", "X.tflite has no suffix of an exported model"),
        ("export filter --out X.mlpackage --size 63", "63 cannot be exported: height and width are multiples of 4"),
        ("export filter --out X.mlpackage --size big", "'big' is no size"),
        ("export filter --out X.mlpackage --size 64,128", "use '--sizes'"),
        ("export filter --out X.mlpackage --size 64 --range 64,128", "only one of"),
        ("export filter --out X.mlmodel --sizes 64,128", ".mlmodel cannot have several sizes"),
        ("export filter --out X.onnx --precision fp16", ".onnx cannot have precision 'fp16'"),
        ("export filter --out X.onnx --compress int8", "compression 'int8' cannot be here"),
        ("export filter --out X.mlpackage --precision fp32 --compress palette4", "compression 'palette4' cannot be here"),
        ("export filter --out X.mlpackage --compress zip", "'zip' is not one of"),
        ("pack filter --out X.mlmodel", "a pack is a .mlpackage"),
        ("pack filter filter --out X.mlpackage", "would both be named filter: give one another name, as NAME=filter"),
        ("pack filter other=filter --out X.mlpackage", "'filter' and 'other' have the same weights"),
        ("pack filter --out X.mlpackage --target ios12", "'ios12' is not one of"),
        ("pack base --out X.mlpackage", "base is no filter"),
        ("pack --out X.mlpackage", "missing argument"),
        ("export base --out X.mlpackage", "base is no filter"),
        ("verify filter --against filter", "filter has no suffix"),
        ("verify X.mlpackage --against filter", "X.mlpackage does not exist"),
    ],
)
def test_an_export_that_cannot_be_is_a_mistake(at, line, words):
    assert fails(call(line), 2, words)
    assert at() == []


def test_a_pack_is_verified_filter_by_filter(at, small):
    Filter(small.arch, small.padding, {name: value * (1 + 0.1 * (".norm" in name)) for name, value in small.weights.items()}).save("strong")
    done = call("pack filter Loud=strong --out Two.mlpackage --target ios15 --size 64 --author Ada")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("wrote Two.mlpackage, 2 filters for ios15, ")
    assert [line.split()[0] for line in lines[1:3]] == ["filter", "loud"]
    assert "the style files are in Two.styles" in lines[3]
    assert "a half-and-half mix" in lines[4]
    assert names("Two.styles") == ["filter.safetensors", "loud.safetensors"]
    for name in ("filter", "strong"):
        assert "is faithful" in call(f"verify Two.mlpackage --against {name}").stdout
    facts = json.loads(call("inspect Two.mlpackage --json").stdout)
    assert [entry["name"] for entry in facts["filters"]] == ["filter", "Loud"]
    assert "Loud" in call("inspect Two.mlpackage").stdout
    assert fails(call("pack filter --out Two.mlpackage"), 2, "exists already")
    assert at() == ["Two.mlpackage", "Two.styles", "strong"]


def test_onnx_and_compression_through_the_command_line(at, monkeypatch):
    done = call("export filter --out Mine.onnx")
    assert done.exit_code == 0, done.stderr
    assert "verified: fp32, 58 arrays equal" in done.stdout
    assert json.loads(call("verify Mine.onnx --against filter --json").stdout)["faithful"] is True
    done = call("export filter --out Mine.mlpackage --size 64 --compress int8")
    assert done.exit_code == 0, done.stderr
    assert "verified: compressed" in done.stdout
    assert " dB, at most " in done.stdout
    assert done.stdout.rstrip().endswith(" MB")
    assert "is faithful: compressed" in call("verify Mine.mlpackage --against filter").stdout
    assert at() == ["Mine.mlpackage", "Mine.onnx"]


# inspect and methods


def test_inspect_shows_lines_or_json(at, base):
    found = json.loads(call("inspect base --json").stdout)
    assert (found["kind"], found["sha256"]) == ("base", base.sha256)
    shown = call("inspect filter").stdout
    assert shown.startswith("kind          filter\n")
    assert "- name image, type image, color RGB" in shown
    assert fails(call("inspect nothing"), 2, "nothing does not exist")


def test_methods_shows_lines_or_json():
    rows = {row["name"]: row for row in json.loads(call("methods --json").stdout)}
    assert rows["fedprox"]["fields"]["mu"] == 0.1
    assert "mu = 0.1" in call("methods").stdout


# simulate


RUN = """
[data]
photos = "photos"
clients = 2
[net]
width = 4
[loss]
density = 64
[training]
size = 32
crops = 2
batch = 2
iterations = 1
[method]
steps = 1
[server]
rounds = 1
workers = 1
[export]
clients = false
"""


def test_simulate_plans_runs_and_never_overwrites(at, monkeypatch):
    Path("run.toml").write_text(RUN)
    plan = call("simulate run.toml --dry-run --set data.clients=1")
    assert plan.exit_code == 0, plan.stderr
    assert plan.stdout.splitlines() == [
        "client  role  style   strength  density  photos  held out",
        "000     seen  mosaic         5       64       2         1",
        "",
        "clients   1: 1 seen",
        "styles    1: as many clients for each, 1",
        "photos    2: 2 to 2 a client, median 2; 1 held out",
    ]
    done = call("simulate run.toml --out made")
    assert done.exit_code == 0, done.stderr
    assert "1 rounds with 2 clients" in done.stdout
    assert "look at made/report.html" in done.stdout
    found = json.loads(call("inspect made --json").stdout)
    assert (found["kind"], found["finished"], found["rounds_done"]) == ("run", True, 1)
    assert found["base_sha256"] == Base.load("made/base").sha256
    assert fails(call("simulate run.toml --out made"), 2, "made", "exists")
    assert fails(call("simulate run.toml"), 2, "--out")
    assert at() == ["made", "run.toml"]


def test_a_dry_run_gives_json_and_a_page_and_makes_no_run(at):
    Path("run.toml").write_text(RUN)
    shown = call(
        "simulate run.toml --dry-run --json --out plan.html --set server.unseen=1 --set data.photo_split={name='content',clusters=2}"
    )
    assert shown.exit_code == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["totals"]["roles"] == {"seen": 1, "unseen": 1}
    assert [sum(one["kinds"].values()) for one in found["clients"]] == [1, 1]
    assert "2 clients, 2 styles, 2 photos" in Path("plan.html").read_text()
    assert fails(call("simulate run.toml --dry-run --out plan.html"), 2, "plan.html exists already")
    assert call("simulate run.toml --dry-run --out folder").exit_code == 0  # the folder of a run is looked at and not made
    assert at() == ["plan.html", "run.toml"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[srver]", "unknown table [srver]: did you mean 'server'?"),
        ("[server]\nround = 3", "unknown key server.round: did you mean 'rounds'?"),
        ('[method]\nname = "fedbm"', "'fedbm': did you mean 'fedbn'?"),
        ('[data]\nphotos = "nowhere"', "nowhere does not exist"),
        ("[server", "is no valid TOML"),
        ('[server]\nstrategy = "FedAvgg"', "FedAvg"),
        ('[data]\nstyles = "dot.png"', "dot.png"),
    ],
)
def test_a_run_that_cannot_be_is_a_mistake(at, table, words):
    Path("bad.toml").write_text(table)
    assert fails(call("simulate bad.toml --out new"), 2, words)
    assert at() == ["bad.toml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("method.lr=0", "method.lr = 0.0: a learning rate"),
        ("method.name=fedbm", "did you mean 'fedbn'?"),
        ("server.strategy=FedAvgg", "FedAvg"),
        ("server.cohort=3", "server.cohort = 3: there are 2 clients"),
        ("loss.weights=style.png", "the feature network tiny has its weights embedded"),
        ("training.device=mps", "training.device = 'mps': this machine has none"),
    ],
)
def test_a_dry_run_finds_what_the_run_would_find(at, monkeypatch, change, words):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    Path("run.toml").write_text(RUN)
    for way in ("--dry-run", "--out new"):
        assert fails(call(f"simulate run.toml {way} --set {change}"), 2, words)
    assert at() == ["run.toml"]


def test_simulate_without_flower_names_the_extra(at):
    Path("run.toml").write_text(RUN)
    program = "import sys; sys.modules['flwr'] = None; from fedstyle.cli import main; main()"  # as if it were not installed
    for way in (["--dry-run"], ["--out", "new"]):
        done = subprocess.run([sys.executable, "-c", program, "simulate", "run.toml", *way], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "fedstyle: a federation needs flwr, which is not installed: pip install 'fedstyle[federation]'\n"
    assert at() == ["run.toml"]


def test_the_command_line_sets_the_switches_of_flower_and_imports_nothing_heavy():
    code = (
        "import os, sys, fedstyle.cli; print(os.environ['FLWR_TELEMETRY_ENABLED'], *sys.modules.keys() & {'flwr', 'ray', 'torch', 'PIL'})"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout == "0\n"


# bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--photos photos", "--photos nowhere"), "the photo folder nowhere does not exist"),
        (("--photos photos", "--photos none"), "none holds no usable photo (1 skipped: 1 not an image)"),
        (("--photos photos", "--photos style.png"), "style.png is not a folder"),
        (("style.png", "nowhere.png"), "nowhere.png does not exist"),
        (("style.png", "words.png"), "words.png is not an image"),
        (("style.png", "cut.png"), "cut.png is damaged or cut short"),
        (("style.png", "dot.png"), "dot.png has 1x1 pixels and is too small"),
        (("style.png", "photos"), "photos is not a regular file"),
        (("--base base", "--base classic --net cnnLite"), "classic is a cnn, --net asks for a cnnLite"),
        (("--base base", "--base filter"), "filter is no base"),
        (("--density 64", "--density 2000"), "invalid value for '--density': 2000"),
        (("--density 64", "--strength 0"), "invalid value for '--strength': 0"),
        (("--density 64", "--densty 64"), "no such option '--densty'"),
        (("--density 64", "--mode fast"), "'fast' is not one of 'quick', 'standard', 'best'"),
        (("--density 64", "--validation words.png"), "words.png is not an image"),
        (("--density 64", "--features vgg16 --weights words.png"), "words.png is no file of network weights"),
        (("--density 64", "--features vgg16 --weights gone.pth"), "'gone.pth' does not exist"),
        (("--density 64", "--weights words.png"), "--weights = 'words.png': the feature network tiny has its weights embedded"),
        (("--out new", "--out run"), "run exists already"),
        (("--out new", "--out filter"), "filter exists already"),
        (("--out new", "--out words.png/new"), "words.png is no folder"),
        (("--out new", ""), "missing option '--out'"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(at, monkeypatch, change, words):
    monkeypatch.setattr("fedstyle.client.Client.task", None)  # training cannot begin
    line = f"{PERSONALIZE} --json --out new"
    assert change[0] in line
    assert fails(call(line.replace(*change)), 2, words)
    assert at() == []


def test_a_missing_feature_network_is_an_error_that_names_the_option(at, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    assert fails(call(f"{PERSONALIZE} --out new --features vgg19"), 2, "the weights of vgg19", "or give --weights a file")
    assert at() == []


@pytest.mark.parametrize(
    "line", [f"{PERSONALIZE} --out new", "stylize filter photos/0.png --out new.png", "export filter --out X.mlmodel --size 16"]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(at, monkeypatch, line):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    assert fails(call(line), 2, "no space left to write", line.split("--out ")[1].split()[0], "free some disk space")
    assert at() == []


def test_a_full_disk_in_a_process_of_its_own(at):
    """The limit on a file's size stands for the disk's: the kernel refuses the write itself."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # noqa: E731
    done = subprocess.run([*PROGRAM, *PERSONALIZE.split(), "--out", "new", "--json"], capture_output=True, text=True, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedstyle: no space left to write")
    assert done.stderr.count("\n") == 1
    assert at() == []


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("", 2, "Usage: fedstyle"),
        ("fly", 2, "fedstyle: no such command 'fly'"),
        ("inspect nowhere --json", 2, "fedstyle: nowhere does not exist"),
    ],
)
def test_a_real_process_ends_with_the_exit_code_and_no_traceback(at, line, code, words):
    done = subprocess.run([*PROGRAM, *line.split()], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(words)
    assert "Traceback" not in done.stderr


def test_a_real_process_prints_json_alone(at):
    done = subprocess.run([*PROGRAM, *PERSONALIZE.split(), "--out", "new", "--json"], capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["filter"] == "new"
    assert done.stderr == ""


def test_a_fault_of_fedstyle_is_one_line_and_debugging_shows_it(at, monkeypatch):
    def broken(path):
        warnings.warn("not for users", stacklevel=1)
        sys.stdout.write("nor is this\n")
        raise ZeroDivisionError("half\nof it")

    monkeypatch.setattr("fedstyle.inspection.inspect", broken)
    result = call("inspect filter --json")
    assert result.stderr == (
        "nor is this\nfedstyle: unexpected ZeroDivisionError (half): this is a fault in fedstyle; "
        "FEDSTYLE_DEBUG=1 shows the traceback to report\n"
    )
    assert (result.exit_code, result.stdout) == (1, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = call("inspect filter --json", env={"FEDSTYLE_DEBUG": "1"})
    assert shown.exit_code == 1
    assert "Traceback" in shown.stderr
    assert "in broken" in shown.stderr


def test_progress_goes_to_a_terminal_only(monkeypatch, capsys):
    with terminal.progress_bar() as advance:
        advance("training: loss 1.0", 1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with terminal.progress_bar() as advance:
        advance("training: loss 1.0", 1, 2)
        advance("training: loss 0.5", 2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training: loss 0.5" in err
    assert "2/2" in err
