import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from fedstyle.base import Base
from fedstyle.config import Config, Data, Loss, Net, Server, Training
from fedstyle.errors import BaseError, ConfigError, PhotoError, StyleError
from fedstyle.population import Clients, first_base, plan
from fedstyle.roster import Role, Roster
from fedstyle.style import Style
from fedstyle.training import derive


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`split`: seven photos in one folder; `each`: a sub-folder for each of two clients, of three photos and one; `styles`: two images."""
    root = tmp_path_factory.mktemp("population")
    for place, seeds in {"split": range(7), "each/anna": range(3), "each/ben": [9], "styles": [20, 21]}.items():
        (root / place).mkdir(parents=True)
        for seed in seeds:
            picture(seed).save(root / place / f"photo {seed}.png")
    return root


def config(folders, *, photos="split", styles="painted", seed=0, **data):
    return Config(data=Data(photos=str(folders / photos), styles=styles, **data), training=Training(seed=seed))


def test_one_folder_is_divided_into_disjoint_libraries_and_held_out_photos_are_in_none(folders):
    devices = plan(config(folders, clients=3, holdout=1)).devices
    trained = [path for device in devices for path in device.photos.paths]
    assert [device.id for device in devices] == ["000", "001", "002"]
    assert [len(device.photos) for device in devices] == [2, 2, 2]  # 7 photos, 1 kept out, 6 among 3
    assert len(set(trained)) == 6
    assert not set(devices[0].heldout.paths) & set(trained)
    assert devices[0].heldout == devices[2].heldout


def test_a_folder_per_client_keeps_out_photos_of_its_own_and_always_trains_on_one(folders):
    anna, ben = plan(config(folders, photos="each", holdout=2)).devices
    assert (len(anna.photos), len(anna.heldout)) == (1, 2)
    assert (len(ben.photos), len(ben.heldout)) == (1, 0)
    assert {path.parent.name for path in (*anna.photos.paths, *anna.heldout.paths)} == {"anna"}


@pytest.mark.parametrize("layout", ["one folder", "a folder per client"])
def test_held_out_photos_are_no_copies_of_training_photos(tmp_path, layout):
    homes = [tmp_path] if layout == "one folder" else [tmp_path / "anna", tmp_path / "ben"]
    for home in homes:
        home.mkdir(exist_ok=True)
        for seed in range(4):
            picture(seed).save(home / f"{seed}.png")
            (home / f"{seed} copy.png").write_bytes((home / f"{seed}.png").read_bytes())
    clients = 2 if layout == "one folder" else 0
    for seed in range(5):
        population = plan(Config(data=Data(photos=str(tmp_path), clients=clients, holdout=2), training=Training(seed=seed)))
        assert population.skipped == {"duplicate": 4 * len(homes)}
        for device in population.devices:
            trained, judged = ([path.read_bytes() for path in photos.paths] for photos in (device.photos, device.heldout))
            assert len(set(judged)) == 2
            assert not set(trained) & set(judged)


def names(photos):
    return [int(path.stem.removeprefix("photo ")) for path in photos.paths]


def test_a_configuration_of_before_there_were_partitioners_gives_the_population_that_it_gave(tmp_path):
    for seed in range(17):
        picture(seed).save(tmp_path / f"photo {seed:02d}.png")
    devices = plan(Config(data=Data(photos=str(tmp_path), clients=5, holdout=2), training=Training(seed=11))).devices
    # Taken from fedstyle 0.1 at the commit before
    assert [names(device.photos) for device in devices] == [[4, 7, 10], [3, 11, 13], [6, 9, 12], [0, 5, 16], [2, 8, 14]]
    assert {tuple(names(device.heldout)) for device in devices} == {(1, 15)}
    assert [device.style_name for device in devices] == ["mosaic", "waves", "brush", "glass", "woodcut"]
    assert {(device.strength, device.density, device.role, device.kinds) for device in devices} == {(5, 256, Role.SEEN, ())}


SPREADS = [
    {"photo_split": {"name": "folder", "alpha": 0.1}},
    {"photo_split": {"name": "content", "clusters": 3}, "amounts": "zipf"},
    {"amounts": {"name": "lognormal", "sigma": 2.0}, "style_split": "dirichlet"},
    {"holdout_from": "own", "photo_split": "folder"},
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Twelve photos in each of two folders, dark and light, and one beside them."""
    root = tmp_path_factory.mktemp("labelled")
    for kind, shade in (("dark", 0.3), ("light", 1.0)):
        (root / kind).mkdir()
        for seed in range(12):
            picture(seed).point(lambda value, shade=shade: int(value * shade)).save(root / kind / f"photo {seed}.png")
    picture(99).save(root / "photo 99.png")
    return root


@pytest.mark.parametrize("spread", SPREADS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_however_photos_are_spread_none_is_there_twice_and_none_is_lost(labelled, spread, seed):
    given = config(labelled, photos=".", clients=6, seed=seed, **{"holdout": 2, **spread})
    population = plan(given)
    trained = [path for device in population.devices for path in device.photos.paths]
    judged = [path for device in population.devices for path in device.heldout.paths]
    assert min(len(device.photos) for device in population.devices) >= 1
    assert len(set(trained)) == len(trained)
    assert not set(trained) & set(judged)
    assert len({*trained, *judged}) == 25
    assert population == plan(given)
    for device in population.devices:
        assert len(device.kinds) in (0, len(device.photos))
    if spread.get("photo_split") in ("folder", SPREADS[0]["photo_split"]):
        for device in population.devices:
            where = [path.parent.name if path.parent != labelled else "" for path in device.photos.paths]
            assert list(device.kinds) == where


def test_with_a_small_alpha_a_client_has_photos_of_one_folder(labelled):
    def mixed(alpha):
        population = plan(config(labelled, photos=".", clients=6, holdout=0, photo_split={"name": "folder", "alpha": alpha}))
        return sum(len(set(device.kinds) & {"dark", "light"}) > 1 for device in population.devices)

    assert mixed(0.01) <= 3  # what no client prefers goes to those that come late
    assert mixed(1e4) == 6


def test_held_out_photos_may_be_each_clients_own(labelled):
    devices = plan(config(labelled, photos=".", clients=5, holdout=2, holdout_from="own")).devices
    assert [(len(device.photos), len(device.heldout)) for device in devices] == [(3, 2)] * 5  # 25 photos, 5 each, of which 2 are kept out
    assert len({path for device in devices for path in device.heldout.paths}) == 10
    one = plan(config(labelled, photos=".", clients=25, holdout=2, holdout_from="own")).devices[0]
    assert (len(one.photos), len(one.heldout)) == (1, 0)  # the last photo is for training


def test_strength_and_density_are_drawn_for_each_client_from_their_ranges(folders, labelled, tmp_path):
    given = config(labelled, photos=".", clients=20, strength=(3, 5), density=(66, 77), styles=str(folders / "styles"))
    devices = plan(given).devices
    assert {device.strength for device in devices} == {3, 4, 5}
    assert {device.density for device in devices} == {68, 72, 76}  # the multiples of 4 between
    looks = [Clients(given, tmp_path)(partition).look for partition in range(3)]
    assert [(look.strength, look.density) for look in looks] == [(device.strength, device.density) for device in devices[:3]]
    fewer = plan(config(labelled, photos=".", clients=5, strength=(3, 5), density=(66, 77))).devices
    assert [(one.strength, one.density) for one in fewer] == [(one.strength, one.density) for one in devices[:5]]
    fixed = dataclasses.replace(config(folders, clients=2), loss=Loss(strength=7, density=128))
    assert {(device.strength, device.density) for device in plan(fixed).devices} == {(7, 128)}


def test_styles_of_a_dirichlet_are_as_many_as_the_configuration_says(labelled):
    given = config(labelled, photos=".", clients=20, style_split={"name": "dirichlet", "alpha": 1e-3})
    assert len({device.style_name for device in plan(given).devices}) == 1
    even = config(labelled, photos=".", clients=20, style_split={"name": "dirichlet", "alpha": 1e6})
    counts = Counter(device.style_name for device in plan(even).devices)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_roles_are_those_of_the_servers_roster(labelled):
    server = Server(unseen=2, late=3, flaky=1, min_replies=0.5)
    given = dataclasses.replace(config(labelled, photos=".", clients=10, seed=4), server=server)
    roster = Roster.of(server, 10, 4)
    roles = [device.role for device in plan(given).devices]
    assert roles == [roster.role(partition) for partition in range(10)]
    assert Counter(roles) == {"unseen": 2, "late": 3, "flaky": 1, "seen": 4}


def test_the_plan_is_a_function_of_the_seed(folders):
    assert plan(config(folders, clients=3)) == plan(config(folders, clients=3))
    assert plan(config(folders, clients=3)) != plan(config(folders, clients=3, seed=1))


def test_styles_go_round_and_their_names_are_safe(folders):
    styles = (str(folders / "styles" / "photo 20.png"), str(folders / "styles" / "photo 21.png"))
    assert [device.style_name for device in plan(config(folders, clients=3, styles=styles)).devices] == ["photo-20", "photo-21", "photo-20"]


def test_a_bad_style_is_an_error_that_names_it_and_never_shifts_the_others(tmp_path, folders):
    looks = tmp_path / "looks"
    looks.mkdir()
    with pytest.raises(StyleError, match=r"data\.styles is empty"):
        plan(config(folders, clients=2, styles=str(looks)))
    for name in ("a", "c"):  # the same picture twice is two styles
        picture(20).save(looks / f"{name}.png")
    (looks / "b.png").write_bytes((looks / "a.png").read_bytes()[:-40])
    (looks / "d.png").touch()
    (looks / "notes.txt").write_text("passed over")
    says = r"^data\.styles: 2 of the 4 images in .*looks cannot be used \(b\.png: damaged; d\.png: empty\): replace or remove them$"
    with pytest.raises(StyleError, match=says):
        plan(config(folders, clients=2, styles=str(looks)))
    with pytest.raises(StyleError, match=r"d\.png is empty"):
        plan(config(folders, clients=1, styles=(str(looks / "a.png"), str(looks / "d.png"))))
    (looks / "b.png").unlink()
    (looks / "d.png").unlink()
    assert [device.style_name for device in plan(config(folders, clients=3, styles=str(looks))).devices] == ["a", "c", "a"]
    for k in range(7):
        (looks / f"x{k}.png").touch()
    with pytest.raises(StyleError, match=r"7 of the 9 images .*x4\.png: empty; and 2 more\)"):
        plan(config(folders, clients=2, styles=str(looks)))


@pytest.mark.parametrize(
    ("error", "match", "data"),
    [
        (ConfigError, "too few", {"clients": 7, "holdout": 1}),
        (ConfigError, "sub-folders", {"clients": 0}),
        (ConfigError, "lists 2 folders", {"photos": "each", "clients": 0} | {"clients": 3, "photos": "each-as-list"}),
        (PhotoError, "does not exist", {"photos": "nowhere", "clients": 2}),
        (StyleError, "does not exist", {"styles": ("nowhere.png",), "clients": 2}),
        (StyleError, "is empty", {"styles": (), "clients": 2}),
        (StyleError, "nowhere is no folder", {"styles": "nowhere", "clients": 2}),
        (ConfigError, "data.amounts is set, but every folder is a client's own", {"photos": "each", "amounts": "zipf"}),
        (ConfigError, "data.photo_split is set, but", {"photos": "each", "photo_split": "content"}),
        (ConfigError, "has no two sub-folders with photos", {"clients": 2, "photo_split": "folder"}),
        (ConfigError, r"clusters = 8: there are only 6 photos", {"clients": 2, "photo_split": "content"}),
    ],
)
def test_what_cannot_be_planned_is_an_error(folders, error, match, data):
    given = config(folders, **data)
    if data.get("photos") == "each-as-list":
        both = tuple(str(folders / "each" / name) for name in ("anna", "ben"))
        given = dataclasses.replace(given, data=dataclasses.replace(given.data, photos=both))
    with pytest.raises(error, match=match):
        plan(given)


def test_clients_are_made_once_kept_within_bounds_and_made_again_elsewhere(folders, tmp_path):
    clients = Clients(config(folders, clients=3), tmp_path, resident=2)
    first, second, third = (clients(partition) for partition in range(3))
    assert clients(0) is first
    assert clients(1) is second
    assert clients(2) is not third  # only two stay, those that came first: a cohort that is asked in turn finds some of its clients
    assert clients(2).look is third.look or len({first.look.image.tobytes(), second.look.image.tobytes()}) == 2
    assert clients.home(1) == tmp_path / "clients" / "001"
    again = pickle.loads(pickle.dumps(clients))
    assert again.population == clients.population
    assert again(0).library == first.library


def test_every_client_has_a_random_stream_of_its_own(folders, tmp_path):
    def seeds(seed):
        clients = Clients(config(folders, clients=3, seed=seed), tmp_path)
        return [clients(partition).plan.seed for partition in range(3)]

    assert seeds(0) == [derive(0, "client", partition) for partition in range(3)]
    assert len({*seeds(0), *seeds(1)}) == 6
    anna, ben = (Clients(config(folders, photos="each", holdout=0), tmp_path)(partition) for partition in (0, 1))
    same = anna.library.crops(32, 4, anna.plan.seed)
    assert torch.equal(same, anna.library.crops(32, 4, anna.plan.seed))
    assert not torch.equal(same, anna.library.crops(32, 4, ben.plan.seed))


@pytest.mark.parametrize(
    ("size", "density", "kept"),
    [
        # The short side becomes density x ceil(512 / density), and the long one as many times what the network sees.
        ((2400, 1801), 256, (684, 512)),  # 2400 * 256 / 1801 = 341.1, an even number: 342
        ((1801, 2400), 64, (512, 688)),  # 64 wide and 2 * round(85.28 / 2) = 86 high, 8 times
        ((1300, 1200), 600, (650, 600)),  # once: exactly what the network sees
        ((700, 500), 256, (700, 500)),
        ((540, 520), 300, (540, 520)),  # 2 * 300 is more than there is
    ],
)
def test_large_style_images_are_kept_smaller_and_look_the_same(folders, tmp_path, size, density, kept):
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / 150
    image = Image.fromarray((np.stack([np.sin(x), np.cos(y), np.sin(x * y)], -1) * 100 + 128).astype(np.uint8))
    image.save(tmp_path / "style.png")
    given = config(folders, clients=3, styles=(str(tmp_path / "style.png"),))
    given = dataclasses.replace(given, loss=Loss(density=density))
    look = Clients(given, tmp_path / "out")(0).look
    assert look.image.size == kept
    assert look.digest() == Clients(given, tmp_path / "out")(1).look.digest()
    whole = Style(image, density=density).pixels
    assert look.pixels.shape == whole.shape
    assert (look.pixels - whole).abs().max() < (2.5 / 255 if kept[1] > density else 1e-6)


def start(base="", arch="cnnLite", method="fedbn", width=0, **more):
    return first_base(Config(net=Net(arch, width=width, base=str(base)), method={"name": method}, training=Training(seed=5), **more))


def test_the_first_base_is_drawn_from_the_seed(monkeypatch):
    monkeypatch.setattr("fedstyle.prediction.FAMILIES", ("mosaic",))
    assert start(width=4).sha256 == Base.new(width=4, seed=5).sha256
    taught = start(width=4, method="predicted")
    assert taught.predicts
    assert taught.record == {"seed": 5, "round": 0}
    assert all(torch.equal(value, taught.weights[name]) for name, value in Base.new(width=4, seed=5).weights.items())


def test_the_first_base_may_be_a_folder_or_the_one_that_fedstyle_carries(tmp_path, base, shipped):
    Base(base.arch, base.padding, base.weights, {"round": 7, "strategy": "FedAdam"}).save(tmp_path / "base")
    found = start(tmp_path / "base")
    assert (found.sha256, found.record) == (base.sha256, {"round": 0, "strategy": "FedAdam"})  # its rounds were another run's
    for method in ("fedbn", "predicted"):
        carried = start("shipped", method=method)
        assert (carried.sha256, carried.record) == (shipped.sha256, {**shipped.record, "round": 0})


def test_a_first_base_that_cannot_be_used_is_an_error(tmp_path, base, shipped):
    base.save(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"net.base = '.*base' is a cnnLite with padding reflect: set net.arch and net.padding to these"):
        start(tmp_path / "base", arch="cnn")
    Base.new(padding="zeros", width=4).save(tmp_path / "zeros")
    with pytest.raises(ConfigError, match=r"is a cnnLite with padding zeros"):
        start(tmp_path / "zeros")
    with pytest.raises(ConfigError, match=r"net.base = '.*base' has no predictor of norms, which predicted trains"):
        start(tmp_path / "base", method="predicted")
    with pytest.raises(BaseError, match=r"nowhere is no base: it has no readable base.json"):
        start(tmp_path / "nowhere")
    with pytest.raises(BaseError, match=r"fedstyle carries no base for 'cnn'"):
        start("shipped", arch="cnn")
