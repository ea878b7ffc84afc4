"""`inheritune report`: folders told apart, shown alone and together."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from analysis_example import facts_of, make_model
from run_example import make_comparison, make_run, save

from inheritune.cli import main
from inheritune.report import write_reports
from inheritune.report.page import Page, write_folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs, of which one is half finished, a comparison and an analysis."""
    place = tmp_path_factory.mktemp("folders")
    save(place / "analysis" / "analysis.json", facts_of([make_model("elsewhere", 3, seed=5)]))
    return {
        "run": make_run(place / "one"),
        "half": make_run(place / "two", "round 1", "models/other", seed=7),
        "comparison": make_comparison(place / "arms"),
        "analysis": place / "analysis",
    }


@pytest.mark.long
def test_all_together_verdicts_first_then_a_row_for_each(places: dict[str, Path], tmp_path: Path) -> None:
    page = write_reports(list(places.values()), tmp_path / "out")
    markdown = page.with_name("report.md").read_text(encoding="utf-8")
    lines = markdown.splitlines()
    verdicts = [line for line in lines[:12] if line]
    assert verdicts[0] == "# Side by side: one, two, arms, analysis"
    assert [line.partition(": ")[0] for line in verdicts[1:5]] == ["one", "two", "arms", "analysis"]
    assert verdicts[3].startswith(
        "arms: Lowest of 3 arms: arm 0, with validation loss 2.9000, the reference 3.0000 (gap -0.1000"
    )
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    assert rows[:3] == ["| run", "| ---", "| one"]
    assert [row for row in rows if row.startswith("| arms: ")] == [
        f"| arms: {name}" for name in ("reference", "arm 0", "arm 1", "arm 2", "broken")
    ]
    assert "All runs were judged on the same validation sequences." in markdown
    assert "one: Prompt" not in markdown
    text = page.read_text(encoding="utf-8")
    for curve in ("one: round 1: 2 blocks", "two: round 1: 2 blocks", "arms: reference", "arms: arm 2"):
        assert f"<title>{curve}\n" in text
    for line in ("analysis: elsewhere", "one: reference", "one: target"):
        assert f"<title>{line}\nblock 0: " in text
    assert len(text) < 1_500_000


def test_runs_of_different_text_are_told_apart(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a" / "run", "controls"), make_run(tmp_path / "b" / "run", "controls")
    manifest = json.loads((two / "manifest.json").read_text())
    save(two / "manifest.json", manifest | {"lineage": {"data": {"validation-0000.bin": "cd" * 32}}})
    markdown = write_reports([one, two], tmp_path / "out").with_name("report.md").read_text(encoding="utf-8")
    assert "judged on different validation sequences: compare their gaps" in markdown
    assert f"{two}: Not finished." in markdown.replace("\\", "")  # one name: told apart by their paths


@pytest.mark.parametrize(
    ("name", "markdown"),
    [
        ("half", "report/report.md"),
        ("comparison", "report/report.md"),
        pytest.param("analysis", "analysis.md", marks=pytest.mark.long),
    ],
)
def test_one_folder_is_shown_in_its_place_and_with_out_elsewhere(
    places: dict[str, Path], name: str, markdown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(places[name])]) == 0
    assert (places[name] / markdown).is_file()
    assert capsys.readouterr().out == f"{(places[name] / markdown).with_name('index.html')}: written\n"
    assert main(["report", str(places[name]), "--out", str(tmp_path / "out"), "--json"]) == 0
    kind = "run" if name == "half" else name
    assert json.loads(capsys.readouterr().out) == {
        "page": str(tmp_path / "out" / "index.html"), "folders": [{"folder": str(places[name]), "kind": kind}],
    }  # fmt: skip


def test_a_report_is_written_anew(tmp_path: Path) -> None:
    for stage in ("begun", "reference"):
        page = write_reports([make_run(tmp_path / stage, stage)], tmp_path / "out")
    assert "no round judged so far" in page.read_text(encoding="utf-8")


def test_a_comparison_killed_before_its_first_arm(tmp_path: Path) -> None:
    page = write_reports([make_comparison(tmp_path / "arms", arms=0)])
    assert "Not finished: no arm has begun." in page.read_text(encoding="utf-8")


def test_a_moved_comparison_is_shown_without_its_references_curve(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "arms")
    (tmp_path / "elsewhere").mkdir()
    page = write_reports([folder.rename(tmp_path / "elsewhere" / "arms")]).read_text(encoding="utf-8")
    assert "<title>arm 0\n" in page
    assert "<title>reference\n" not in page


def test_what_is_no_report_is_left_alone_and_said_in_a_line(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("a page of mine")
    run = str(places["run"])
    wrong = {
        ("report", str(tmp_path)): "holds none of these: run (recipe.yaml), comparison (comparison.json or suite.yaml), analysis (analysis.json);",
        ("report", str(tmp_path / "gone")): "gone: is no folder; name folders that",
        ("report", run, run): "is named twice",
        ("report", run, "--out", str(tmp_path / "mine")): "mine: is not empty and holds no report; give another --out",
        ("report", run, "--out", str(tmp_path / "mine" / "index.html")): "index.html: is a file; give another --out",
        ("report",): "Missing argument",
    }  # fmt: skip
    for words, said in wrong.items():
        assert main(list(words)) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert (tmp_path / "mine" / "index.html").read_text() == "a page of mine"


def test_several_pages_of_a_folder_at_once(tmp_path: Path) -> None:
    """As a run writes its own and a person asks for it: none is lost, and none ends with an error."""
    page = Page("a title", [("", "a verdict")], [])
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: write_folder(page, tmp_path / "report", None), range(40)))
    assert set(written) == {tmp_path / "report" / "index.html"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["figures", "index.html", "report", "report.md"]
