"""The page of a study in a browser: drawn, sortable, offline, on a phone and in the dark."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from anytrain.report.study_page import write_page
from studies import study

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

CHARTS = 15
DRAWN = f"document.querySelectorAll('.plot .xy, .plot .barlayer').length >= {CHARTS}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("study")
    write_page(study(), [], out, "anytrain study report study.toml")
    return (out / "page.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """An open page and everything it complained of or asked for."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_function(DRAWN)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def style(self, selector: str, name: str) -> str:
        read = f"element => getComputedStyle(element).{name}"
        return str(self.page.locator(selector).first.evaluate(read))


def test_all_is_drawn_without_a_word_or_a_request(browser: Any, url: str) -> None:
    with Visit(browser, url) as visit:
        assert visit.count(".plot") == CHARTS
        assert visit.count(".plot .main-svg .cartesianlayer .subplot") == CHARTS
        empty = ".plot:not(:has(.trace path, .trace .point))"
        assert visit.count(empty) == 0
        assert visit.complaints == []
        assert [asked for asked in visit.requests if not asked.startswith("data:")] == [url]


def test_a_header_sorts_by_click_and_by_key(browser: Any, url: str) -> None:
    with Visit(browser, url) as visit:
        table = visit.page.locator("#regret table")
        header = table.locator("th", has_text="regret, nats/token")
        cells = table.locator("tbody td:nth-child(3)")
        header.locator("button").click()
        up = [float(text) for text in cells.all_inner_texts()]
        assert header.get_attribute("aria-sort") == "ascending"
        assert up == sorted(up)
        header.locator("button").focus()
        visit.page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        assert [float(text) for text in cells.all_inner_texts()] == up[::-1]
        names = table.locator("tbody td:nth-child(1)")
        table.locator("th", has_text="arm").first.locator("button").click()
        assert names.all_inner_texts() == sorted(names.all_inner_texts())
        assert header.get_attribute("aria-sort") is None


def test_contents_lead_to_their_parts(browser: Any, url: str) -> None:
    with Visit(browser, url) as visit:
        visit.page.emulate_media(reduced_motion="reduce")
        links = visit.page.locator("nav a")
        assert links.count() >= 8
        for i in range(links.count()):
            target = links.nth(i).get_attribute("href")
            links.nth(i).click()
            assert visit.page.evaluate("location.hash") == target
            assert visit.page.locator(f"{target} h2").bounding_box()["y"] < 800


@pytest.mark.parametrize("width", [380, 820, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, url: str, width: int) -> None:
    with Visit(browser, url, width=width) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        for i in range(CHARTS):
            box = visit.page.locator(".plot .svg-container").nth(i).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_a_phone_has_legends_and_a_desk_names_at_the_lines(browser: Any, url: str) -> None:
    with Visit(browser, url, width=380) as phone:
        assert phone.count("#plot-differences .legend .legendtext") == 4
        assert phone.count("#plot-differences .annotation") == 1  # where the transient ends
        phone.page.set_viewport_size({"width": 1200, "height": 800})
        phone.page.wait_for_function(
            "document.querySelectorAll('#plot-differences .annotation').length === 6"
        )
        assert phone.count("#plot-differences .legend") == 0


def test_the_dark_has_its_own_colours_and_turns_back(browser: Any, url: str) -> None:
    with Visit(browser, url, scheme="dark") as visit:
        assert visit.style("body", "backgroundColor") == "rgb(20, 23, 26)"
        dark = visit.style("#plot-loss .trace.scatter path.js-line", "stroke")
        visit.page.emulate_media(color_scheme="light")
        visit.page.wait_for_function(
            "getComputedStyle(document.querySelector('#plot-loss .trace.scatter path.js-line'))"
            f".stroke !== '{dark}'"
        )
        assert visit.complaints == []


def test_names_do_not_cover_one_another(browser: Any, url: str) -> None:
    overlap = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
      const boxes = [...plot.querySelectorAll('.annotation, .ytick, .xtick')]
        .map((e) => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width);
      return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 5 && b.top < a.bottom - 5
      ).map(([other]) => `${plot.id}: ${name} on ${other}`));
    })"""
    for width in (1280, 380):
        with Visit(browser, url, width=width) as visit:
            assert visit.page.evaluate(overlap) == []
