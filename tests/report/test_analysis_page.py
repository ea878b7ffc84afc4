"""The page of an analysis: what is drawn is read off the page again and compared with the figures."""

import base64
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from analysis_example import facts_of, figure, make_model, typed, with_selection, without_attention, write

from inheritune.errors import DamagedFile, InputError
from inheritune.report import write_report
from inheritune.report.analysis import analysis_verdict, layers_table
from inheritune.report.heat_maps import draw_heads
from inheritune.report.line_charts import draw_measure
from inheritune.report.measures import BLOCK_MEASURES, HEAD_MEASURES, attention_measures
from inheritune.results import Analysis

Written = tuple[Path, list[dict[str, Any]], str]
"""Folder, models, page."""

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
HOSTILE = '<script>alert(1)</script> $x^2$ a|b & "c"'


class Page(HTMLParser):
    """Tags, ids and text of a page, as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "src", "xlink:href", "action"):
                self.links.append(value or "")
            self.links += re.findall(r"url\((.*?)\)", value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def svg_of(page: str, name: str) -> ElementTree.Element:
    found = [svg for svg in re.findall(r"<svg.*?</svg>", page, re.S) if f'id="{name}-figure_1"' in svg]
    assert len(found) == 1
    return ElementTree.fromstring(found[0])


def part(svg: ElementTree.Element, name: str) -> ElementTree.Element:
    return next(element for element in svg.iter() if element.get("id") == name)


def scale(svg: ElementTree.Element, name: str, axis: str, log: bool) -> tuple[float, float]:
    """(slope, offset) from an axis' numbers, as a reader takes them, to positions in the drawing."""
    ticks = []
    for element in svg.iter(f"{SVG}g"):
        if (element.get("id") or "").startswith(f"{name}-{axis}tick_"):
            texts = [text.text for text in element.iter(f"{SVG}text") if text.text]
            if texts:
                value = float(texts[0].replace("\N{MINUS SIGN}", "-"))
                ticks.append(
                    (math.log10(value) if log else value, float(next(element.iter(f"{SVG}use")).get(axis, "")))
                )
    slope, offset = np.polyfit(*zip(*ticks, strict=True), 1)
    assert np.allclose([slope * value + offset for value, _ in ticks], [place for _, place in ticks], atol=0.01)
    return slope, offset


def read_line(page: str, name: str, line: int, log: bool) -> list[tuple[int, float]]:
    """The points of a drawn line, read off the axes."""
    svg = svg_of(page, name)
    (x_slope, x_offset), (y_slope, y_offset) = scale(svg, name, "x", False), scale(svg, name, "y", log)
    points = []
    for use in part(svg, f"{name}-line-{line}").iter(f"{SVG}use"):
        x, y = (float(use.get("x", "")) - x_offset) / x_slope, (float(use.get("y", "")) - y_offset) / y_slope
        assert x == pytest.approx(round(x), abs=0.01)
        points.append((round(x), 10**y if log else y))
    return points


def tick_place(page: str, name: str, number: str, axis: str = "y") -> float:
    """Where the axis has that number, in the drawing."""
    for element in svg_of(page, name).iter(f"{SVG}g"):
        if (element.get("id") or "").startswith(f"{name}-{axis}tick_") and number in [
            text.text for text in element.iter(f"{SVG}text")
        ]:
            return float(next(element.iter(f"{SVG}use")).get(axis, ""))
    raise AssertionError(f"no {number} on the axis")


def read_image(page: str, name: str) -> np.ndarray:
    """The pixels (rows, columns, RGBA) of a heat map."""
    from matplotlib.image import imread

    data = part(svg_of(page, name), f"{name}-map").get(LINK, "").partition("base64,")[2]
    return np.asarray(imread(io.BytesIO(base64.b64decode(data)), format="png"))


def means(model: dict[str, Any], *keys: str) -> list[tuple[int, float]]:
    points = []
    for block in model["blocks"]:
        found = block
        for key in keys:
            found = found and found[key]
        if found:
            points.append((block["block"], found["mean"]))
    return points


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A reference and its target, whose name is hostile."""
    folder = tmp_path_factory.mktemp("two")
    models = [with_selection(make_model("reference", 8), [0, 1, 2, 5]), make_model(HOSTILE, 4, seed=1)]
    return folder, models, write(folder, models)


def same(read: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    return [block for block, _ in read] == [block for block, _ in expected] and np.allclose(
        [value for _, value in read], [value for _, value in expected], rtol=2e-3
    )


@pytest.mark.parametrize(
    ("name", "keys"),
    [("max-rank", ("attention", "max_rank", "0.9")), ("avg-mass", ("attention", "avg_mass")), ("influence", ("influence",)), ("depth-loss", ("depth_loss",))],
)  # fmt: skip
def test_lines_show_the_figures_of_both_models(two: Written, name: str, keys: tuple[str, ...]) -> None:
    _, models, page = two
    for number, model in enumerate(models):
        assert same(read_line(page, name, number, log=True), means(model, *keys))


def test_lazy_layers_are_ringed(two: Written) -> None:
    _, models, page = two
    for number, model in enumerate(models):
        rings = part(svg_of(page, "max-rank"), f"max-rank-lazy-{number}").iter(f"{SVG}use")
        assert len(list(rings)) == len(model["lazy_layers"]) > 0


@pytest.mark.parametrize("number", [0, 1])
def test_heat_maps_show_every_head(two: Written, number: int) -> None:
    """The colours' order is the figures' order, over both models at once, and orange is what has collapsed."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    _, models, page = two
    heads = [block["attention"]["heads"] for block in models[number]["blocks"]]
    ranks = np.array([[head["rank"]["0.9"]["mean"] for head in block] for block in heads]).T
    highest = max(
        head["rank"]["0.9"]["mean"]
        for model in models
        for block in model["blocks"]
        for head in block["attention"]["heads"]
    )
    pixels, collapsed = read_image(page, f"rank-{number}"), ranks < 1.5
    assert pixels.shape[:2] == ranks.shape == (4, models[number]["layers"])
    assert np.allclose(pixels[collapsed][:, :3], np.array([0xE8, 0x59, 0x0C]) / 255, atol=0.01)
    assert np.allclose(pixels[~collapsed], colormaps["viridis"](LogNorm(1.5, highest)(ranks[~collapsed])), atol=0.02)
    sinks = np.array([[head["sink"]["mean"] for head in block] for block in heads]).T
    assert np.allclose(read_image(page, f"sink-{number}"), colormaps["viridis"](sinks), atol=0.02)


def test_angular_distance_is_a_triangle_with_its_least_marked(two: Written) -> None:
    _, models, page = two
    pixels = read_image(page, "angular-distance-1")
    assert (pixels[:, :, 3] > 0).tolist() == [[start + k <= 4 for start in range(4)] for k in range(1, 5)]
    svg = svg_of(page, "angular-distance-1")
    slope, offset = scale(svg, "angular-distance-1", "x", False)
    dots = part(svg, "angular-distance-1-least").iter(f"{SVG}use")
    expected = [int(np.argmin([found["mean"] for found in row["distances"]])) for row in models[1]["angular_distance"]]
    assert [round((float(dot.get("x", "")) - offset) / slope) for dot in dots] == expected


def test_attention_maps_show_the_matrices(two: Written) -> None:
    from matplotlib import colormaps

    folder, _, page = two
    with np.load(folder / "maps-0.npz") as maps:
        for kind in ("potent", "lazy"):
            pixels, seen = read_image(page, f"attention-0-{kind}"), np.tril(np.ones((100, 100), bool))
            assert (pixels[~seen][:, 3] == 0).all()
            assert np.allclose(pixels[seen], colormaps["viridis"](np.sqrt(maps[kind][seen])), atol=0.02)


def test_the_page_needs_nothing_else_and_its_ids_are_its_own(two: Written) -> None:
    page = Page(two[2])
    assert [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert max(page.ids.values()) == 1
    assert page.tags["svg"] == 7 + 2 * 7 - 1  # lines; maps of each model: 4 of heads, 1 of distances, 2 of attention
    assert "#7a7b7c" not in two[2]


def test_names_are_text(two: Written) -> None:
    page = Page(two[2])
    assert page.tags["script"] == 1  # the page's own
    assert f"{HOSTILE}: " in page.text
    markdown = (two[0] / "analysis.md").read_text()
    assert "<script" not in markdown.replace("\\<", "")
    assert "a\\|b" in markdown


def test_markdown_has_the_verdicts_and_every_figure_as_a_file(two: Written) -> None:
    folder, models, page = two
    markdown = (folder / "analysis.md").read_text()
    assert analysis_verdict(typed(models[0])) in markdown
    named = re.findall(r"\(figures/(.*?\.png)\)", markdown)
    assert sorted(named) == sorted(file.name for file in (folder / "figures").iterdir())
    assert len(named) == Page(page).tags["svg"]
    assert all((folder / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in named)


def test_the_table_has_every_block_and_what_became_of_it(two: Written) -> None:
    model = two[1][0]
    header, rows = layers_table(typed(model), [0.9])
    assert header[:7] == ["block", "note", "MaxRank", "AvgMass", "sink", "entropy", "collapsed"]
    top = model["blocks"][0]["attention"]["max_rank"]["0.9"]["mean"]
    assert rows[0][:3] == ["0", "kept", f"{top:.2f} ±0.30"]
    assert [row[1] for row in rows[3:6]] == [
        "dropped 1.",
        "dropped 2.",
        "lazy, kept" if 5 in model["lazy_layers"] else "kept",
    ]
    assert all(cell in two[2] for row in rows for cell in row)


@pytest.mark.long
def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """One model without attention, one with gaps: words in place of a line, a gap in place of a point."""
    gaps = without_attention(make_model("hybrid", 6), [1, 2])
    gaps["blocks"][0]["attention"]["heads"] = gaps["blocks"][0]["attention"]["heads"][:2]
    gaps["blocks"][3]["skipped"] = gaps["blocks"][0]["gradients"] = None
    mixer = without_attention(make_model("mixer", 5), list(range(5)), "its mixers are state-space models")
    mixer["angular_distance"] = []
    for block in mixer["blocks"]:
        block["skipped"] = block["gradients"] = None
    page = write(tmp_path, [gaps, mixer])
    text = Page(page).text
    assert "mixer: which layers are lazy is not known: its mixers are state-space models." in text
    assert "hybrid: blocks 1-2 without attention weights" in text
    assert "hybrid: block 0 with 2 heads where others have 4." in text
    assert "hybrid: Loss when the block is skipped was not measured for block 3." in text
    assert "mixer: Loss when the block is skipped was not measured." in text
    assert "mixer: Gradient norms of queries and keys (query) was not measured." in text
    assert "mixer: Angular distance was not measured." in text
    assert "mixer: no attention matrix was kept." in text
    assert [block for block, _ in read_line(page, "max-rank", 0, log=True)] == [0, 3, 4, 5]
    assert "max-rank-line-1" not in page
    assert "nan" not in text.lower().split()


def test_a_block_without_attention_or_with_fewer_heads_is_empty_in_the_map() -> None:
    model = without_attention(make_model("hybrid", 6), [1, 2])
    model["blocks"][0]["attention"]["heads"] = model["blocks"][0]["attention"]["heads"][:2]
    picture = draw_heads(HEAD_MEASURES[0], Analysis.model_validate(facts_of([model])), 0)
    assert picture is not None
    filled = [[place not in (1, 2) and (head < 2 or place != 0) for place in range(6)] for head in range(4)]
    assert (read_image(picture.svg, "rank-0")[:, :, 3] > 0).tolist() == filled


def test_a_skipped_block_may_help_and_most_others_do_little() -> None:
    """Large, small and negative changes of the loss in one chart: each is found where the axis says."""
    model = make_model("m", 5)
    for block, change in zip(model["blocks"], (12.0, 0.2, -0.05, 0.3, 0.25), strict=True):
        block["skipped"] = figure(change, None)
    picture = draw_measure(BLOCK_MEASURES[1], [typed(model)])
    assert picture is not None
    heights = [
        float(use.get("y", "")) for use in part(svg_of(picture.svg, "skipped"), "skipped-line-0").iter(f"{SVG}use")
    ]
    assert np.argsort(heights).tolist() == [0, 3, 4, 1, 2]
    zero, tenth = (tick_place(picture.svg, "skipped", value) for value in ("0", "0.1"))
    assert heights[1] < tenth < zero < heights[2]


def test_a_single_block_and_a_single_sequence() -> None:
    model = make_model("one", 1, 1, se=None)
    picture = draw_measure(BLOCK_MEASURES[2], [typed(model)])
    assert picture is not None
    loss = model["blocks"][0]["depth_loss"]["mean"]
    assert float(
        np.mean(
            [
                float(use.get("x", ""))
                for use in part(svg_of(picture.svg, "depth-loss"), "depth-loss-line-0").iter(f"{SVG}use")
            ]
        )
    ) == pytest.approx(tick_place(picture.svg, "depth-loss", "0", "x"))
    assert layers_table(typed(model), [0.9])[1][0][-3] == f"{loss:.3f}"


@pytest.mark.long
def test_the_page_of_a_single_block_and_sequence(tmp_path: Path) -> None:
    page = write(tmp_path, [make_model("one", 1, 1, se=None)], sequences=1, length=12)
    assert "±" not in Page(page).text
    assert "One sequence has no standard error." in page


def test_several_taus_are_several_lines_and_columns() -> None:
    taus = [0.9, 0.5]
    model = make_model("m", 6, taus=taus)
    picture = draw_measure(attention_measures(taus)[0], [typed(model)])
    assert picture is not None
    for number, tau in enumerate(("0.9", "0.5")):
        assert same(read_line(picture.svg, "max-rank", number, log=True), means(model, "attention", "max_rank", tau))
    assert layers_table(typed(model), taus)[0][2:4] == ["MaxRank at 0.9", "MaxRank at 0.5"]


def test_models_of_one_name_are_told_apart_and_a_users_figures_stay(tmp_path: Path) -> None:
    models = [
        without_attention(make_model("model", 2), [0, 1], "not asked for") | {"path": path, "angular_distance": []}
        for path in ("runs/a/model", "runs/b/model", "runs/b/model")
    ]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "of-the-user.png").write_bytes(b"kept")
    text = Page(write(tmp_path, models)).text
    assert (tmp_path / "figures" / "of-the-user.png").read_bytes() == b"kept"
    assert all(f"{name}: " in text for name in ("runs/a/model", "runs/b/model (2)", "runs/b/model (3)"))


@pytest.mark.long
def test_a_hundred_layers_stay_light(tmp_path: Path) -> None:
    page = write(tmp_path, [make_model("large", 100, 64)], length=2048)
    assert len(page.encode()) < 2_000_000
    assert read_image(page, "rank-0").shape[:2] == (64, 100)
    assert read_image(page, "attention-0-potent").shape[:2] == (256, 256)
    assert "largest of 8 x 8 weights" in page


def test_a_folder_without_an_analysis_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds none of these"):
        write_report(tmp_path)
    (tmp_path / "analysis.json").write_text('{"format": 7}')
    with pytest.raises(InputError, match="is of version 7, not 1"):
        write_report(tmp_path)
    head = {"block": 0, "head": 0, "rank": 1.0}
    maps = {"file": "maps-0.npz", "potent": head, "lazy": head}
    model = make_model("m", 2) | {"maps": maps, "blocks": [], "angular_distance": []}
    (tmp_path / "analysis.json").write_text(json.dumps(facts_of([model])))
    (tmp_path / "maps-0.npz").write_bytes(b"nothing")
    with pytest.raises(DamagedFile, match=r"maps-0\.npz: damaged"):
        write_report(tmp_path)
