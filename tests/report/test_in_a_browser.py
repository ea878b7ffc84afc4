"""The pages in front of a reader: on a phone and a screen, by day and night, on paper; axes chosen, values shown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from analysis_example import make_model, with_selection, write
from run_example import make_comparison, make_run

from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from inheritune.report import write_reports

pytestmark = [pytest.mark.long, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)]
KINDS = ("run", "half", "comparison", "analysis", "joint")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pages")
    long = "models/a-name-that-is-as-long-as-names-of-models-are-" + "x" * 60
    folders = {
        "run": make_run(place / "run"),
        "half": make_run(place / "half", "training", long),
        "comparison": make_comparison(place / "arms", arms=8),
        "analysis": place / "analysis",
    }
    folders["analysis"].mkdir()
    write(folders["analysis"], [with_selection(make_model("reference", 8), [0, 1, 2, 5]), make_model(long, 4, seed=1)])
    found = {kind: write_reports([folder]) for kind, folder in folders.items() if kind != "analysis"}
    return found | {
        "analysis": folders["analysis"] / "index.html",
        "joint": write_reports(list(folders.values()), place / "joint"),
    }


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_pages_need_nothing_and_fit_every_window(kind: str, pages: dict[str, Path], chromium: Browser) -> None:
    assert pages[kind].stat().st_size < 1_500_000
    colours = set()
    for width in (400, 1400):
        for dark in (False, True):
            chromium.requests()
            chromium.open(pages[kind], width, dark)
            assert chromium.complaints() == []
            assert [url for url in chromium.requests() if not url.startswith("data:")] == [
                pages[kind].resolve().as_uri()
            ]
            assert chromium.ask("return innerWidth") == width
            assert chromium.ask("return document.documentElement.scrollWidth <= innerWidth")
            assert chromium.ask(WIDER, width) == []
            colours.add((dark, *chromium.ask(INK_AND_PAPER)))
    inks = {dark: (ink, paper) for dark, ink, paper in colours}
    assert inks == {False: ("rgb(0, 0, 0)", 255), True: ("rgb(255, 255, 255)", 18)}


# what sticks out of the window and is in no box that scrolls
WIDER = """
const boxes = [...document.querySelectorAll("body *")].filter((one) => !one.closest(".wide, pre, svg"));
return boxes.filter((one) => one.getBoundingClientRect().right > arguments[0] + 1).map((one) => one.outerHTML.slice(0, 80));
"""
# the colour of the text in a figure where there is one, and how light the paper is
INK_AND_PAPER = """
const ink = document.querySelector("svg g[id*=tick] text, h1");
const canvas = document.createElement("div");
canvas.style.background = "Canvas";
document.body.append(canvas);
const paper = getComputedStyle(canvas).backgroundColor.match(/\\d+/)[0];
const style = getComputedStyle(ink);
return [ink.tagName == "text" ? style.fill : style.color, Number(paper)];
"""


@pytest.mark.parametrize("kind", ["run", "comparison", "joint"])
def test_axes_are_chosen(kind: str, pages: dict[str, Path], chromium: Browser) -> None:
    chromium.open(pages[kind], 400)
    shown = (
        "return [...document.querySelectorAll('.axes figure')].map((one) => one.getBoundingClientRect().height > 100)"
    )
    for number in (0, 2, 1):
        chromium.press(".choice label", number)
        assert chromium.ask(shown) == [number == place for place in range(3)]
    assert chromium.ask("return [...document.querySelectorAll('.choice label')].map((one) => one.innerText.trim())") == [
        "tokens", "steps", "FLOPs",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("kind", ["run", "comparison", "analysis", "joint"])
def test_values_are_shown_beside_the_pointer(kind: str, width: int, pages: dict[str, Path], chromium: Browser) -> None:
    chromium.open(pages[kind], width)
    for number in (0, -1):
        x, y, says = chromium.ask(
            "const found = [...document.querySelectorAll('svg .point')].filter((one) => one.getBoundingClientRect().width)"
            ".at(arguments[0]); found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2, found.dataset.says]",
            number,
        )
        chromium.point_at(2, 2)
        chromium.point_at(x, y)
        shown = chromium.ask("return document.querySelector('#tip').innerText")
        assert says in shown  # with those that lie under it
        tip = chromium.ask("return document.querySelector('#tip').getBoundingClientRect().toJSON()")
        assert tip["left"] >= 0
        assert tip["right"] <= width
        assert tip["top"] >= 0
        assert chromium.ask("return document.querySelectorAll('.point.on').length") == shown.count(
            says.rpartition("\n")[2]
        )
        chromium.point_at(2, 2)
        assert chromium.ask("return document.querySelector('#tip').hidden")


def test_values_stay_beside_a_finger_that_has_left(pages: dict[str, Path], chromium: Browser) -> None:
    chromium.open(pages["run"], 400)
    x, y, says = chromium.ask(
        "const found = document.querySelectorAll('svg .point')[2]; found.scrollIntoView({block: 'center'});"
        "const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2, found.dataset.says]"
    )
    chromium.touch(x, y)
    assert says in chromium.ask("return document.querySelector('#tip').innerText")
    assert not chromium.ask("return document.querySelector('#tip').hidden")


@pytest.mark.parametrize("kind", KINDS)
def test_print_hides_nothing(kind: str, pages: dict[str, Path], chromium: Browser) -> None:
    paper = 718  # pixels of A4 between its margins
    chromium.open(pages[kind], paper, dark=True, media="print")
    assert chromium.ask("return document.documentElement.scrollWidth <= innerWidth")
    hidden: list[Any] = chromium.ask(HIDDEN)
    assert hidden == []
    assert chromium.ask(INK_AND_PAPER) == ["rgb(0, 0, 0)", 255]


# parts without a size, and boxes that hold more than they show
HIDDEN = """
const parts = [...document.querySelectorAll("h1, h2, h3, p, figure, svg, td, dd, pre, summary")];
const gone = parts.filter((one) => one.textContent.trim() && !(one.getBoundingClientRect().height > 0
  && one.checkVisibility({contentVisibilityAuto: true, opacityProperty: true, visibilityProperty: true})));
const cut = [...document.querySelectorAll(".wide, pre, dd")].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1);
return [...gone, ...cut].map((one) => one.outerHTML.slice(0, 120));
"""
