"""simulation/splits.toml: which photo and style belongs to which split, and that nothing crosses."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from fedstyle.paint import PAINTERS

SPLITS = ("tiny-train", "base-train", "unseen")
FOUND = tomllib.loads((Path(__file__).parents[1] / "simulation" / "splits.toml").read_text())
PRINTS = {"Hokusai"}
"""Artists whose works here are prints and no paintings."""


def data():
    """The folder with the development data; a stranger's clone has none."""
    folder = os.environ.get("FEDSTYLE_DATA")
    if not folder:
        pytest.skip("FEDSTYLE_DATA does not name the folder with photos/ and styles/")
    return Path(folder)


def hand(artist):
    """The artist; who painted after one counts as that one."""
    return artist.removeprefix("after ")


def test_every_table_names_the_three_splits_and_no_other():
    assert set(FOUND) == {"photos", "collections", "painters", "styles"}
    for name, table in FOUND.items():
        assert set(table) == set(SPLITS), name


@pytest.mark.parametrize("table", FOUND)
def test_everything_is_in_exactly_one_split(table):
    every = [item for split in SPLITS for item in FOUND[table][split]]
    assert every
    assert len(every) == len(set(every))


def test_no_artist_crosses():
    hands = [{hand(artist) for artist in FOUND["styles"][split].values()} for split in SPLITS]
    assert all(hands)
    assert not hands[0] & hands[1]
    assert not hands[0] & hands[2]
    assert not hands[1] & hands[2]


def test_an_artist_in_a_file_name_is_the_one_it_is_assigned_to():
    names = {"vangogh": "van Gogh", "kandinsky": "Kandinsky", "monet": "Monet", "mondrian": "Mondrian", "hokusai": "Hokusai"}
    names |= {"munch": "Munch", "picabia": "Picabia", "turner": "Turner", "museum": None, "texture": "texture"}
    for split in SPLITS:
        for file, artist in FOUND["styles"][split].items():
            assert names[file.partition("-")[0]] in (None, artist), file


def test_the_painters_are_split_by_family_and_all_of_them_are():
    assert {name for split in SPLITS for name in FOUND["painters"][split]} == set(PAINTERS)


def test_the_collections_are_those_that_there_are():
    assert {name for split in SPLITS for name in FOUND["collections"][split]} == {"demo", "photos-research"}
    assert "photos-research" in FOUND["collections"]["unseen"]  # for studies only: what ships may not learn from it


def test_enough_stays_unseen():
    artworks = {file: artist for file, artist in FOUND["styles"]["unseen"].items() if artist != "texture"}
    # A file named painter-title-year.jpg is a photograph of the work itself; of the 16-colour museum pieces none counts here.
    paintings = [file for file, artist in artworks.items() if re.fullmatch(r"[a-z]+-[a-z-]+-\d{4}\.jpg", file) and artist not in PRINTS]
    assert len(artworks) >= 6
    assert len(paintings) >= 3
    assert len(artworks) + len(FOUND["painters"]["unseen"]) >= 12
    assert len(FOUND["photos"]["unseen"]) >= 4


def test_the_base_learns_from_enough_artworks():
    assert sum(artist != "texture" for artist in FOUND["styles"]["base-train"].values()) >= 14


@pytest.mark.parametrize("table", ["photos", "styles"])
def test_the_files_that_there_are_are_the_files_assigned(table):
    assert {path.name for path in (data() / table).iterdir()} == {file for split in SPLITS for file in FOUND[table][split]}


def test_the_collections_lie_where_they_are_looked_for():
    assert len(list((data() / "photos-research").glob("*.jpg"))) >= 100
