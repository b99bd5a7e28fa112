import json
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import picture

from fedstyle.census import census, distance, row, totals
from fedstyle.config import Config, Data, Server, Training
from fedstyle.photos import Photos
from fedstyle.population import Device, Population, plan
from fedstyle.report.population import write_population
from fedstyle.roster import Role


def photos(*numbers):
    return Photos(tuple(Path(f"{number}.jpg") for number in numbers))


ANNA = Device("000", photos(1, 2, 3), photos(9), "waves", None, 4, 128, Role.SEEN, ("sea", "sea", "sky"))
BEN = Device("001", photos(4), photos(9), "waves", None, 6, 256, Role.UNSEEN, ("sky",))
TWO = Population((ANNA, BEN), {"damaged": 2})


def test_the_distance_of_two_mixes_by_hand():
    assert distance({"a": 3, "b": 1}, {"a": 3, "b": 1}) == 0
    assert distance({"a": 3}, {"b": 7}) == 1
    assert distance({"a": 3, "b": 1}, {"a": 1, "b": 1}) == pytest.approx((0.25 + 0.25) / 2)


def test_a_population_in_numbers_by_hand():
    assert row(ANNA) == {
        "id": "000",
        "style": "waves",
        "strength": 4,
        "density": 128,
        "photos": 3,
        "heldout": 1,
        "role": "seen",
        "kinds": {"sea": 2, "sky": 1},
    }
    assert totals(TWO) == {
        "clients": 2,
        "roles": {"seen": 1, "unseen": 1},
        "photos": 4,
        "heldout": 1,
        "photos_a_client": {"least": 1, "median": 2.0, "most": 3},
        "styles": {"waves": 2},
        "kinds": {"sea": 2, "sky": 2},
        "skew": 0.3333,  # of all half is sky. Anna: |2/3 - 1/2| = |1/3 - 1/2| = 1/6, so 1/6. Ben: 1/2. Their mean is 1/3.
    }
    assert json.loads(json.dumps(census(TWO)))["photos_skipped"] == {"damaged": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four photos in each of two folders and two styles."""
    root = tmp_path_factory.mktemp("census")
    for seed in range(10):
        place = root / ("styles" if seed > 7 else "photos/<b>" if seed % 2 else "photos/light")
        place.mkdir(parents=True, exist_ok=True)
        picture(seed).save(place / f"{seed}.png")
    return root


def page(folder, tmp_path, server=None, **data):
    shown = {"clients": 4, "holdout": 0, "styles": str(folder / "styles"), **data}
    config = Config(data=Data(photos=str(folder / "photos"), **shown), server=server or Server(), training=Training(seed=1))
    return write_population(tmp_path / "population.html", plan(config), config).read_text()


def test_the_page_shows_styles_photos_kinds_roles_and_every_client(folder, tmp_path):
    server = Server(unseen=1, late=1, flaky=1, late_round=3, flaky_rate=0.25, min_replies=0.5)
    html = page(folder, tmp_path, server, photo_split="folder", strength=(3, 7), density=(64, 512))
    assert "4 clients, 2 styles, 8 photos" in html
    assert "1 can be asked in every round, 1 can be asked but fails with chance 0.25, 1 can be asked from round 3 on" in html
    assert html.count("data:image/jpeg;base64,") == 2 + 2 * 4  # a picture a style, and up to five photos a kind
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert Counter(re.findall(r"<td>(seen|flaky|late|unseen)</td>", html)) == {"seen": 1, "flaky": 1, "late": 1, "unseen": 1}
    assert re.search(r"Style strength \d to \d, median [\d.]+; density \d+ to \d+ pixels\.</p>", html)
    assert html.count('h0" class="dot') == 4
    assert "skew of photos" in html
    assert str(folder) not in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)


def test_the_page_of_a_plain_population_leaves_out_what_it_does_not_have(folder, tmp_path):
    html = page(folder, tmp_path)
    for part in ("How strong and how coarse", "kinds of photos", "skew of photos"):
        assert part not in html
    assert "10 rounds with all who are there" in html
    bars = re.findall(r'<path d="([^"]+)" class="fill k0"', html)
    assert len(bars) == 1
    # Two photos each of the four, and ticks up to 2: columns as high as the box, from 8 % to 92 % of a quarter of its width
    assert re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", bars[0]) == [
        (left, "0.00", "21.00", "100.00") for left in ("2.00", "27.00", "52.00", "77.00")
    ]


def test_strengths_alone_are_a_sentence_and_no_chart(folder, tmp_path):
    html = page(folder, tmp_path, strength=(3, 7))
    assert re.search(r"Style strength \d to \d, median [\d.]+; density 256 pixels\.</p>", html)
    assert 'class="dot' not in html


def test_a_large_population_is_drawn_in_part(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fedstyle.report.population.MOST", 3)
    html = page(folder, tmp_path)
    assert "2 of 4 clients, at even distances" in html
    assert html.count('scope="row"') == 2
