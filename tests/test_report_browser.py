"""The report in a real Chromium, as a person meets it."""

import shutil

import pytest
from run_files import write_run

from fedstyle.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'fedstyle[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    def change(summary):
        summary["clients"][1].update(error="ExportError", package=None, parity=None)
        summary["clients"][2]["style"] = "a-style-with-a-very-long-name-and-no-place-to-break-it-" * 3

    return write_report(write_run(tmp_path_factory.mktemp("report") / "run", clients=4, rounds=12, change=change))


@pytest.fixture
def visit(browser, report):
    """Opens the report, and afterwards holds that it said nothing on the console and asked for nothing."""
    contexts, troubles = [], []

    def open_page(width=1280, height=800, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.split(":")[0] != "data" else None)
        page.goto(report.as_uri())
        assert troubles.pop(0) == report.as_uri()  # the page itself is the one request
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def decoded(page):
    return page.evaluate("""async () => {
        await Promise.all([...document.images].map((image) => image.decode()));
        return [...document.images].map((image) => image.naturalWidth);
    }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280, 1600])
def test_it_fits_every_screen(visit, width, scheme):
    page = visit(width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is wider than the screen scrolls in a region of its own.
    beyond = """[...document.querySelectorAll('main *')].filter((part) =>
        !part.closest('.scroll, pre') && part.getBoundingClientRect().right > innerWidth + 0.5).map((part) => part.outerHTML)"""
    assert page.evaluate(beyond) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 21, 19)" if scheme == "dark" else "rgb(247, 246, 242)"
    )


def test_pictures_and_cards_are_there(visit):
    page = visit()
    assert page.locator(".card").count() == 4
    widths = decoded(page)
    assert len(widths) == 4 * 5  # four pictures, and the one that the filter is compared with
    assert all(width > 0 for width in widths)
    assert page.locator("h1").count() == 1
    for chart in page.locator(".plot svg").all():
        box = chart.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100


def test_it_reads_without_its_program(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".card img").count() == 16
    assert page.locator(".card >> nth=0").get_by_alt_text("Photo of device 000, under the personal filter: mosaic").is_visible()
    assert page.locator("button, input").count() == 0
    page.locator("summary", has_text="Array by array").click()
    assert page.get_by_text("blocks.0.first").is_visible()


def test_a_filter_is_compared_with_the_keyboard(visit):
    page = visit()
    slider = page.get_by_role("slider", name="Device 000: compare with the filter")
    over = page.locator(".card >> nth=0 >> .hero img:not(.under)")

    def cut():
        return over.evaluate("image => getComputedStyle(image).clipPath")

    slider.focus()
    assert cut() == "inset(0px 0px 0px 34%)"
    page.keyboard.press("ArrowRight")
    assert cut() == "inset(0px 0px 0px 35%)"
    assert slider.get_attribute("aria-valuetext") == "35 % photo, 65 % filter"
    page.keyboard.press("Home")
    assert cut() == "inset(0px 0px 0px 0%)"
    under = page.locator(".card >> nth=0 >> .under")
    photo = under.get_attribute("src")
    page.get_by_role("radio", name="photo").first.focus()
    page.keyboard.press("ArrowRight")
    assert under.get_attribute("src") != photo
    assert under.get_attribute("src") == page.locator(".card >> nth=0 >> [data-shot=base] img").get_attribute("src")
    # The two pictures lie exactly on each other; both are measured at once, for the page may still be scrolling to the focus.
    boxes = page.locator(".card >> nth=0 >> .hero img").evaluate_all(
        "images => images.map(image => image.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 2
    assert boxes[0] == boxes[1]


def test_the_comparison_follows_the_pointer(visit):
    page = visit(360, 740)
    slider = page.locator(".compare input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.34, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert 74 <= int(slider.input_value()) <= 86


@pytest.mark.parametrize("width", [360, 1280])
def test_a_picture_opens_large_with_the_keyboard(visit, width):
    page = visit(width)
    button = page.get_by_role("button", name="Enlarge: Photo of device 001", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    view = page.get_by_role("dialog")
    assert view.is_visible()
    assert view.get_by_alt_text("Photo of device 001", exact=True).is_visible()
    large = view.locator("img").bounding_box()
    assert max(large["width"], large["height"]) > 300
    assert large["x"] >= 0
    assert large["y"] >= 0
    assert large["x"] + large["width"] <= width
    page.keyboard.press("ArrowRight")
    assert view.get_by_alt_text("Photo of device 001, under the base").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert view.get_by_alt_text("Style image of device 001").is_visible()
    assert all(size > 0 for size in decoded(page))
    page.keyboard.press("Escape")
    assert not view.is_visible()
    assert button.evaluate("button => button === document.activeElement")  # back to where one was
    page.locator(".enlarge").first.click()
    assert view.get_by_alt_text("Photo of device 000, under the personal filter").is_visible()
    view.get_by_role("button", name="Close").click()
    assert not view.is_visible()


def test_everything_that_acts_has_a_name_and_room_for_a_finger(visit):
    page = visit(360)
    for part in page.locator("button:visible, a, summary, input[type=range]").all():
        assert (part.get_attribute("aria-label") or part.inner_text()).strip()
    small = """[...document.querySelectorAll('button, nav a, summary, .tools label')].filter((part) => part.getClientRects().length
        && part.getBoundingClientRect().height < 24).map((part) => part.outerHTML.slice(0, 90))"""
    assert page.evaluate(small) == []  # WCAG 2.2, 2.5.8: 24 pixels


def test_paper_shows_whole_pictures_and_all_details(visit, tmp_path):
    page = visit()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".hero img:not(.under)").first.evaluate("image => getComputedStyle(image).clipPath") == "none"
    assert not page.locator(".compare input").first.is_visible()
    assert len(page.pdf(format="A4")) > 10_000
