import base64
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from PIL import Image
from run_files import SENT, write_run

from fedstyle.errors import ConfigError, FedstyleError
from fedstyle.report import write_report
from fedstyle.report.charts import Line, chart, smooth, spread, thin, ticks
from fedstyle.report.html import Html, escape, join, table, tag
from fedstyle.report.words import amount, change, count, duration, figure, unpath, verdict


class Text(HTMLParser):
    """Collects what a reader sees, and checks that elements are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.words, self.tags = [], [], []
        self.feed(page)
        assert self.stack == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in ("meta", "link", "img", "br"):
            self.stack.append(name)

    def handle_startendtag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.stack.pop() == name

    def handle_data(self, data):
        if not {"style", "script"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(folder, **options):
    return Text(write_report(write_run(folder / "run", **options)).read_text())


# ---------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (839_700, "840 kB"),
        (999_600, "1.00 MB"),
        (6_717_600, "6.72 MB"),
        (40_300_000, "40.3 MB"),
    ],
)
def test_bytes_have_three_digits_in_decimal_units(size, words):
    assert amount(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.5, "9.5 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (252.4, "4 min 12 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
    ],
)
def test_durations_have_two_units_at_most(seconds, words):
    assert duration(seconds) == words


def test_numbers_in_words():
    assert [count(n) for n in (0, 1, 12, 13, 1234)] == ["no", "one", "twelve", "13", "1,234"]
    # Three significant digits: 0.412 has its first one tenth, so three places; 12.345 needs one; 0 keeps two.
    assert [figure(x) for x in (0.41249, 1.1, 12.345, 1234.5, 0, -0.05)] == ["0.412", "1.10", "12.3", "1,234", "0.00", "-0.0500"]
    assert [figure(x) for x in (None, float("nan"), float("inf"), "7", True)] == ["–"] * 5
    assert [change(x) for x in (0.336, -0.08, 0.004, None)] == ["34 % lower", "8 % higher", "no lower", "not measured"]


def test_a_verdict_says_what_was_found():
    good = {"faithful": True, "psnr": None, "max": 0.0, "constants": 62, "precision": "fp32", "problems": []}
    assert verdict(good, "a.mlpackage")[:2] == ("good", "Faithful")
    assert "no difference in any pixel, all 62 of its arrays exact in fp32" in verdict(good, "a.mlpackage")[2]
    bad = verdict({"faithful": False, "problems": ["/srv/models/a.mlpackage is cut short"]}, "a.mlpackage")
    assert bad[0] == "bad"
    assert "…/a.mlpackage is cut short" in bad[2]
    assert verdict(None, "a.mlpackage")[1] == "Not verified"
    assert verdict(good, None)[1] == "Not exported"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('photos = "/home/eva/My Photos/summer"', 'photos = "…/summer"'),
        ("styles = ['/a/b', '~/c/d e']", "styles = ['…/b', '…/d e']"),
        ('x = "C:\\\\Users\\\\eva\\\\pics"', 'x = "…/pics"'),
        ("cannot read /tmp/run-1/x.jpg: denied", "cannot read …/x.jpg: denied"),
        ("fedstyle verify clients/000/a.mlpackage", "fedstyle verify clients/000/a.mlpackage"),
        ("1.2 of 255 and/or 3/4", "1.2 of 255 and/or 3/4"),
    ],
)
def test_absolute_paths_are_cut_down_to_their_last_part(text, left):
    assert unpath(text) == left


# ---------------------------------------------------------------------------------------------------------------- markup and charts


def test_text_becomes_markup_only_through_tags():
    assert (
        tag("p", "a < b & 'c'", Html("<b>d</b>"), None, 0, class_='x"y') == '<p class="x&quot;y">a &lt; b &amp; &#x27;c&#x27;<b>d</b>0</p>'
    )
    assert tag("img", src="x", alt="", hidden=True, title=None) == '<img src="x" alt="" hidden>'
    assert join("<", Html("<")) == "&lt;<"
    assert escape(None) == ""
    shown = table("t", ["a", "b"], [["c", "d"]], foot=["e", "f"])
    assert '<th scope="col">a</th><th scope="col" class="n">b</th>' in shown
    assert '<th scope="row">c</th><td class="n">d</td>' in shown


def test_ticks_are_round_and_reach_the_highest_value():
    assert ticks(0, 0.93) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]  # 0.1 gives 10 steps, 0.2 gives 4.65
    assert ticks(0, 3.05) == [0, 1, 2, 3, 4]  # 0.5 gives 6.1 steps, so 1
    assert ticks(1, 3, whole=True) == [1, 2, 3]  # never half a round
    assert ticks(1, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 0) == [0]


def test_lines_are_smoothed_thinned_and_their_labels_spread():
    assert smooth([(1, 4.0), (2, 2.0), (3, 0.0)], 2) == [(1, 4.0), (2, 3.0), (3, 1.0)]  # 4; (4+2)/2; (2+0)/2
    assert thin([(k, 0.0) for k in range(10)], 4) == [(0, 0.0), (3, 0.0), (6, 0.0), (9, 0.0)]
    assert thin([(k, 0.0) for k in range(9)], 4)[-1] == (8, 0.0)  # the last one is kept whatever the step
    assert spread([50, 10, 52], 8) == [50, 10, 58]
    assert spread([98, 99], 8) == [92, 100]  # pushed back up from the foot


def test_a_chart_places_its_points():
    drawn = chart([Line("loss", [(1, 4.0), (2, 1.0), (3, 0.0)], 0)], "about <it>", "Round")
    # Ticks end at 4, so 4 is at the top (0), 1 at 75 and 0 at the foot (100).
    assert 'd="M0.00 0.00L50.00 75.00L100.00 100.00"' in drawn
    assert 'aria-label="about &lt;it&gt;"' in drawn
    assert "nothing to draw" in chart([Line("loss", [], 0)], "", "")
    assert "M50.00 0.00h0" in chart([Line("loss", [(1, 2.0)], 0)], "", "")  # one round is a dot in the middle


# ---------------------------------------------------------------------------------------------------------------- the page


def test_the_page_tells_what_happened(tmp_path):
    page = read(tmp_path)
    assert "Three simulated devices learned together for two rounds and each got a photo filter of their own." in page.text
    for words in (
        "Device 000",
        "mosaic",
        "50 % lower loss than the base",
        "2 distinct photos on the device",
        "2 photos it did not train on",
    ):
        assert words in page.text
    assert "mosaic.mlpackage 883 kB" in page.text
    assert "Run on this machine, the file itself gives the filter's picture: at most 1.2 of 255 apart, 68.1 dB, all 62" in page.text
    assert "1 photo could not be used and was passed over (1 truncated)." in page.text
    # 4 layers of a 4x3x3x3 convolution (108) and 4 shifts: 432 numbers are sent and 16 stay.
    assert f"the change of {len(SENT)} arrays of weights, by name (432 of the network's 448 numbers)" in page.text
    assert "4 arrays of private weights (16 numbers)" in page.text
    assert "no formal (differential) privacy" in page.text
    assert "4 min 12 s" in page.text
    assert page.text.index("blocks.0.first") < page.text.index("blocks.10.first") < page.text.index("up1")
    alts = [attributes["alt"] for name, attributes in page.tags if name == "img"]
    assert len(alts) == 12
    assert all(alts)
    assert len({attributes["id"] for _, attributes in page.tags if "id" in attributes}) == sum("id" in a for _, a in page.tags)


def test_the_page_says_what_the_filters_are_compared_with(tmp_path):
    def change(summary):
        del summary["clients"][2]["losses"]["rounds"]  # a run of before it was measured
        summary["clients"][2].update(strength=None, density=None)

    page = read(tmp_path, change=change)
    assert "Base is the shared base as it stands, without any device's private part." in page.text
    assert "So a part of each gain comes from the rounds." in page.text
    assert "Base: total Base with own part: total Filter: content" in page.text
    assert page.text.count("Base with own part 0.430 1.45 1.88") == 2  # in the cards of the two that measured it
    assert "2.20 1.88 0.400" in page.text  # in the table of all numbers
    assert "2.20 – 0.400" in page.text
    assert "strength –, density –" in page.text
    assert "once, the number that the simulation gave the device" in page.text


def test_the_page_asks_for_nothing_and_names_no_place(tmp_path):
    page = read(tmp_path)
    for _, attributes in page.tags:
        for key, value in attributes.items():
            if key in ("src", "href", "srcset", "action", "poster"):
                assert value.startswith(("data:", "#"))
    source = (tmp_path / "run" / "report.html").read_text()
    assert "://" not in source
    assert str(tmp_path) not in source
    assert "/home/eva" not in source
    assert "url(" not in source
    assert "…/summer" in page.text


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"

    def change(summary):
        for key in ("engine", "strategy", "method", "base_sha256"):
            summary[key] = evil
        summary["versions"] = {evil: evil}
        summary["photos_skipped"] = {evil: 2}
        summary["timings"] = {evil: 1.0}
        one, two = summary["clients"][:2]
        one.update(style=evil, error=evil, heldout_kind=evil, package=evil, filter=evil)
        two["parity"].update(faithful=False, problems=[evil], precision=evil)

    page = read(tmp_path, change=change)
    assert sum(name == "script" for name, _ in page.tags) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "<script>alert(1)</script>" in page.text  # the reader sees it as text


def test_what_is_absent_is_left_out(tmp_path):
    def change(summary):
        for key in ("versions", "timings", "photos_skipped", "seconds", "bytes_down"):
            del summary[key]
        summary["clients"][0].update(package=None, parity=None, error="ExportError")
        summary["clients"][1].update(error="PhotoError", losses=None, improvement=None, filter=None, package=None, parity=None)
        summary["clients"][2].update(heldout_kind="training photos", improvement=-0.1)
        del summary["clients"][2]["strength"]

    folder = write_run(tmp_path / "run", change=change)
    (folder / "config.toml").unlink()
    for path in [*folder.glob("clients/001/*/*.jpg"), *folder.glob("clients/001/*.jsonl")]:
        path.unlink()
    (folder / "clients" / "000" / "pictures" / "base.jpg").write_bytes(b"no picture")
    lines = (folder / "history.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"failures": {"001": "photos"}, "replied": 2, "loss": None}
    (folder / "history.jsonl").write_text(json.dumps(first) + "\n" + lines[1] + "\n" + '{"torn')
    page = Text(write_report(folder).read_text())
    assert "; two of them got a photo filter of their own." in page.text
    assert "This device found no usable photo." in page.text
    assert "This device could not export its filter." in page.text  # and has it all the same
    assert "50 % lower loss than the base" in page.text
    assert "Not exported" in page.text
    assert "crops of photos it trained on; none was held out" in page.text
    assert "10 % higher loss than the base" in page.text
    assert "photos 1 time: a device found no usable photo" in page.text
    assert "2 of 3" in page.text
    assert sum(name == "img" for name, _ in page.tags) == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 1, "rounds": 1}, "One simulated device trained a base for one round and got a photo filter of its own."),
        ({"clients": 2, "rounds": 0}, "Two simulated devices trained without a round of learning together and each got a photo filter"),
        ({"clients": 0, "rounds": 0}, "No device took part in this run."),
        ({"clients": 12, "rounds": 1}, "Twelve simulated devices learned together for one round"),
    ],
)
def test_runs_of_every_size_can_be_read(tmp_path, options, words):
    page = read(tmp_path, **options)
    assert words in page.text
    assert sum(name == "article" for name, _ in page.tags) == options["clients"]
    if not options["rounds"]:
        assert "There was no round." in page.text
        assert "Nothing left a device in this run." in page.text


def test_devices_of_a_real_federation_are_not_called_simulated(tmp_path):
    folder = write_run(tmp_path / "run", clients=2)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"engine": "deployment"}))
    assert "Two devices learned together" in write_report(folder).read_text()


def test_pictures_lose_their_metadata_and_extra_size(tmp_path):
    folder = write_run(tmp_path / "run", clients=1)
    photo = folder / "clients" / "000" / "pictures" / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    Image.new("RGB", (1280, 640), "red").save(photo, exif=exif)
    source = write_report(folder).read_text()
    assert 'width="640" height="320"' in source
    contents = [base64.b64decode(uri) for uri in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', source)]
    assert len(contents) == 4
    assert not any(b"secret" in content for content in contents)


def test_equal_runs_give_equal_pages_and_nothing_else_is_written(tmp_path):
    folder = write_run(tmp_path / "run")
    before = sorted(folder.rglob("*"))
    page = write_report(folder).read_bytes()
    assert write_report(str(folder)).read_bytes() == page
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "report.html"])


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "fedstyle-run-2"}', '{"format": "fedstyle-run-1", "clients": [1]}'])
def test_a_folder_without_a_finished_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigError, match=r"summary\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_history_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", clients=1)
    (folder / "history.jsonl").write_text("{nonsense}\n")
    with pytest.raises(FedstyleError, match=r"history\.jsonl is damaged: line 1"):
        write_report(folder)


def test_a_damaged_ledger_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", clients=1)
    (folder / "clients" / "000" / "ledger.jsonl").write_text("[1]\n")
    with pytest.raises(FedstyleError, match=r"ledger\.jsonl is damaged: line 1"):
        write_report(folder)


# ---------------------------------------------------------------------------------------------------------------- colours


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, two):
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)  # (1 + 0.05) / (0 + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_stand_out(scheme):
    style = (resources.files("fedstyle.report") / "page.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", style.split(":root")[1 + scheme]))
    for paper in ("paper", "sheet", "sunk"):
        for ink in ("ink", "soft"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    assert contrast(colours["accent"], colours["paper"]) >= 4.5
    for mark in ("good", "bad", "none"):
        assert contrast(colours[mark], colours[f"{mark}-paper"]) >= 4.5, mark
        assert contrast(colours[mark], colours["sheet"]) >= 4.5, mark
    for line in range(8):
        assert contrast(colours[f"k{line}"], colours["sheet"]) >= 3, line
