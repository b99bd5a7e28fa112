import dataclasses
import pickle

import pytest
from conftest import picture

from fedstyle.config import Config, Data, Training
from fedstyle.errors import ConfigError, PhotoError, StyleError
from fedstyle.population import Clients, plan


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


def test_the_plan_is_a_function_of_the_seed(folders):
    assert plan(config(folders, clients=3)) == plan(config(folders, clients=3))
    assert plan(config(folders, clients=3)) != plan(config(folders, clients=3, seed=1))


def test_styles_go_round_and_their_names_are_safe(folders):
    styles = (str(folders / "styles" / "photo 20.png"), str(folders / "styles" / "photo 21.png"))
    assert [device.style_name for device in plan(config(folders, clients=3, styles=styles)).devices] == ["photo-20", "photo-21", "photo-20"]


@pytest.mark.parametrize(
    ("error", "match", "data"),
    [
        (ConfigError, "too few", {"clients": 7, "holdout": 1}),
        (ConfigError, "sub-folders", {"clients": 0}),
        (ConfigError, "lists 2 folders", {"photos": "each", "clients": 0} | {"clients": 3, "photos": "each-as-list"}),
        (PhotoError, "does not exist", {"photos": "nowhere", "clients": 2}),
        (StyleError, "does not exist", {"styles": ("nowhere.png",), "clients": 2}),
        (StyleError, "is empty", {"styles": (), "clients": 2}),
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
    first = clients(0)
    assert clients(0) is first
    clients(1), clients(2)
    assert clients(0) is not first  # only two stay
    assert clients.home(1) == tmp_path / "clients" / "001"
    again = pickle.loads(pickle.dumps(clients))
    assert again.population == clients.population
    assert again(0).library == first.library
