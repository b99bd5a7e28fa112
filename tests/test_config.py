import dataclasses
from pathlib import Path

import pytest

from fedstyle.config import Config, Data, Export, Loss, Net, Privacy, Server, Training
from fedstyle.errors import ConfigError

WHOLE = """
[data]
photos = ["one", "/two"]
styles = "looks"
clients = 2
[net]
arch = "cnn"
padding = "zeros"
[loss]
features = "vgg16"
weights = "w.pth"
layers = [1, 0.5, 0]
[training]
size = 64
rate = 2e-3
[method]
name = "fedprox"
mu = 0.2
[privacy]
clip = 3
[server]
strategy = "FedAdam"
options = { eta = 0.1 }
wire = "fp32"
[export]
clients = false
author = 'A "B"'
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "run.toml").write_text(text)
        return tmp_path / "run.toml"

    return write


def test_an_empty_file_is_all_defaults(write):
    assert Config.load(write("")) == Config()
    assert Config().method == {"name": "fedbn"}


def test_a_whole_file_is_read_and_paths_are_relative_to_it(write, tmp_path):
    config = Config.load(write(WHOLE))
    assert config.data == Data(photos=(str(tmp_path / "one"), "/two"), clients=2, styles=str(tmp_path / "looks"))
    assert config.net == Net("cnn", "zeros")
    assert config.loss == Loss(features="vgg16", weights=str(tmp_path / "w.pth"), layers=(1.0, 0.5, 0.0))
    assert config.training == Training(size=64, rate=0.002)
    assert config.method == {"name": "fedprox", "mu": 0.2}
    assert config.privacy == Privacy(3.0)
    assert config.server == Server(strategy="FedAdam", options={"eta": 0.1}, wire="fp32")
    assert config.export == Export(clients=False, author='A "B"')


def test_the_home_of_a_user_is_found(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Config.load(write('[data]\nphotos = "~/pictures"')).data.photos == str(tmp_path / "me" / "pictures")
    with pytest.raises(ConfigError, match=r"run.toml: the path '~nobody-here/x' begins with a user who is not known"):
        Config.load(write('[data]\nphotos = "~nobody-here/x"'))


def test_what_a_run_writes_reads_back_equal_in_any_folder(write, tmp_path):
    config = Config.load(write(WHOLE))
    other = tmp_path / "run" / "config.toml"
    other.parent.mkdir()
    other.write_text(config.toml())
    assert Config.load(other) == config
    assert Config.load(write(Config().toml())) == Config()
    assert list(config.tables()) == ["data", "net", "loss", "training", "method", "privacy", "server", "export"]


def test_a_base_to_start_from_is_a_folder_or_a_word(write, tmp_path):
    assert Config().net.base == ""
    assert Config.load(write('[net]\nbase = "bases/mine"')).net.base == str(tmp_path / "bases" / "mine")
    config = Config.load(write('[net]\nbase = "shipped"'))
    assert config.net.base == "shipped"
    assert Config.load(write(config.toml())) == config


def test_training_takes_the_rates_that_a_base_advises():
    advice = {"rate": 5e-4, "norm_rate": 3e-2, "warmup": 0}
    assert Training.for_base({"round": 3}) == Training()
    assert Training.for_base({"personal": advice}) == Training(rate=5e-4, norm_rate=3e-2, warmup=0)
    assert Training.for_base({"personal": {"norm_rate": 1}}, seed=2, iterations=7) == Training(norm_rate=1.0, seed=2, iterations=7)
    assert Training.for_base({"personal": advice}, warmup=4).warmup == 4  # who asks for another value gets it


@pytest.mark.parametrize(
    ("personal", "says"),
    [
        ([], r"the base's record.personal = \[\]: it is a table of rates"),
        ({"size": 64}, "the base's record.personal has an entry 'size' that is no rate: a newer fedstyle may have written it"),
        ({"rate": "1"}, "the base's record.personal.rate = '1': give a number"),
        ({"rate": 0.0}, "training.rate = 0.0: a learning rate"),
        ({"warmup": -1}, "training.warmup = -1: give 0 or more"),
    ],
)
def test_advice_that_cannot_be_used_is_an_error(personal, says):
    with pytest.raises(ConfigError, match=f"^{says}"):
        Training.for_base({"personal": personal})


def test_overrides_win_and_are_checked_alike(write):
    path = write(WHOLE)
    config = Config.load(path, ["server.rounds=3", "method.mu=1", "loss.style=2", "net.arch=cnnLite", "server.options.beta=0.5"])
    assert (config.server.rounds, config.method["mu"], config.loss.style, config.net.arch) == (3, 1, 2.0, "cnnLite")
    assert config.server.options == {"eta": 0.1, "beta": 0.5}
    assert Config.load(path, ["method.name=local"]).method["name"] == "local"
    with pytest.raises(ConfigError, match=r"run.toml: unknown key server.round: did you mean 'rounds'\?"):
        Config.load(path, ["server.round=3"])
    with pytest.raises(ConfigError, match=r"run.toml: --set 'rounds=3': write table.key=value"):
        Config.load(path, ["rounds=3"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sever]\nrounds = 1", r"unknown table \[sever\]: did you mean 'server'\?"),
        ("rounds = 1", r"unknown table \[rounds\]"),
        ("server = 1", r"server = 1: it is a table; write \[server\]"),
        ("[[server]]\nrounds = 1", "server = .* it is a table"),
        ("[data]\nclients = -1", "data.clients = -1: give a number of clients"),
        ("[data]\nholdout = -1", "data.holdout = -1"),
        ('[net]\narch = "resnet"', "net.arch = 'resnet': choose one of cnn, cnnLite"),
        ('[net]\npadding = "none"', "net.padding = 'none': choose one of reflect, zeros, replicate"),
        ("[net]\nwidth = 200", "net.width = 200"),
        ('[net]\nwidth = 8\nbase = "shipped"', "net.width = 8: the base that net.base names has a width of its own; leave one out"),
        ("[loss]\nstyle = -1", "loss.style = -1.0: a weight is 0 or more"),
        ("[loss]\nstyle = inf", "loss.style = inf: give a finite number"),
        ("[loss]\nlayers = [1, 1]", "loss.layers = .*: give three weights, not all 0"),
        ("[loss]\nlayers = [0, 0, 0]", "loss.layers"),
        ("[loss]\nlayers = [1, -1, 1]", "loss.layers"),
        ("[loss]\nlayers = [1, nan, 1]", "loss.layers = nan: give a finite number"),
        ("[loss]\nstrength = 11", "loss.strength = 11: give 1 to 10"),
        ("[loss]\ndensity = 32", "loss.density = 32: give 64 to 1024 pixels"),
        ("[training]\nsize = 50", "training.size = 50: give a multiple of 4"),
        ("[training]\nbatch = 0", "training.batch = 0: give 1 or more"),
        ("[training]\nrate = 0", "training.rate = 0.0: a learning rate"),
        ("[training]\nnorm_rate = 2", "training.norm_rate = 2.0: a learning rate"),
        ('[training]\ndevice = "tpu"', "training.device = 'tpu': choose one of auto, cpu, cuda, mps"),
        ("[privacy]\nclip = -0.1", "privacy.clip = -0.1"),
        ('[server]\nengine = "spark"', "server.engine = 'spark': choose one of inline, ray"),
        ("[server]\nmin_replies = 0", "server.min_replies = 0.0: give a share"),
        ("[server]\ntimeout = 0", "server.timeout = 0.0"),
        ("[server]\nrounds = -1", "server.rounds = -1"),
        ("[export]\nsize = 510", "export.size = 510: give a multiple of 4"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_file_and_key(write, text, says):
    path = write(text)
    with pytest.raises(ConfigError, match=f"^{path}: {says}"):
        Config.load(path)


def test_a_missing_file_is_an_error():
    with pytest.raises(ConfigError, match=r"cannot read the configuration nowhere.toml: No such file"):
        Config.load(Path("nowhere.toml"))


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().server.rounds = 3
