"""A page as data: verdicts, then sections of sentences, figures, tables and texts; as HTML and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from inheritune.report.figures import Picture
from inheritune.report.markup import fill_template, markdown_block, markdown_table, markdown_text
from inheritune.runlog import named, new_folder, one_at_a_time, open_new, refuse_link, write_text

GOOD, BAD, OPEN = "#009e73", "#d55e00", "#7a7b7c"
"""Colours of a verdict: matched, not matched, not known yet."""

GENERATOR = '<meta name="generator" content="inheritune">'
"""A report is recognised by this line."""


class Table(NamedTuple):
    """Cells as text."""

    header: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, columns: Iterable[str], rows: Sequence[Mapping[str, str]], missing: str = "") -> "Table":
        """A table of rows that have their cells by column, without the columns in which every cell is empty.

        `missing` is shown for a cell that a row does not have.
        """
        header = [name for name in columns if any(row.get(name) for row in rows)]
        return cls(header, [[row.get(name, missing) for name in header] for row in rows])

    def markdown(self) -> str:
        """The table as Markdown that shows the cells as they are."""
        cells = [[markdown_text(cell) for cell in row] for row in [self.header, *self.rows]]
        return "\n".join(markdown_table(cells[0], cells[1:]))


@dataclass(frozen=True)
class Panel:
    """A figure with its heading and the sentence that explains it."""

    title: str
    about: str
    picture: Picture


@dataclass(frozen=True)
class Section:
    """Parts of a page under a heading, shown in the order of these fields; without a title, under no heading."""

    title: str
    about: str = ""
    missing: list[str] = field(default_factory=list)
    """Sentences on what is missing, or not there yet."""
    rows: list[list[Panel]] = field(default_factory=list)
    """Figures that are shown side by side where there is room."""
    by_axis: list[tuple[str, Picture]] = field(default_factory=list)
    """One figure over several axes, of which the reader chooses one."""
    tables: list[tuple[str, Table]] = field(default_factory=list)
    """(heading, table); an empty heading shows none."""
    samples: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    """(prompt, continuations), each continuation a model's name and its text."""
    code: list[tuple[str, str]] = field(default_factory=list)
    """(sentence before it, text)."""
    notes: list[str] = field(default_factory=list)
    folded: list[tuple[str, str]] = field(default_factory=list)
    """(what it is, text that is shown when asked for)."""

    @property
    def panels(self) -> list[Panel]:
        """All figures that are shown side by side."""
        return [panel for row in self.rows for panel in row]

    @property
    def pictures(self) -> list[Picture]:
        """All figures."""
        return [panel.picture for panel in self.panels] + [picture for _, picture in self.by_axis]

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing but a title and `about`."""
        parts = (self.missing, self.panels, self.by_axis, self.tables, self.samples, self.code, self.notes, self.folded)
        return not any(parts)


@dataclass(frozen=True)
class Page:
    """Verdicts first, each with its colour; then the sections that are not empty."""

    title: str
    verdicts: list[tuple[str, str]]
    sections: list[Section]


def write_folder(page: Page, default: Path, out: Path | None, markdown: str = "report.md") -> Path:
    """Write `page` into `out`, whose other files stay, or as the folder `default`, which is replaced.

    A folder that does not exist appears whole or not at all. A run that writes its page and a person who asks for it
    wait for each other.
    """
    if out is not None and out.is_dir():
        return write_page(page, out, markdown)
    folder = default if out is None else out
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.parent), new_folder(folder) as partial:
        write_page(page, partial, markdown)
    return folder / "index.html"


def write_page(page: Page, folder: Path, markdown: str = "report.md") -> Path:
    """Write `page` into a folder that is there: index.html, the same as Markdown, figures/; returns the page's path."""
    shown = [section for section in page.sections if not section.is_empty]
    with one_at_a_time(folder):
        refuse_link(folder / "figures")
        (folder / "figures").mkdir(exist_ok=True)  # a user's own files stay
        for picture in (picture for section in shown for picture in section.pictures):
            path = folder / "figures" / f"{picture.name}.png"
            with named(path), open_new(path) as file:
                file.write(picture.png)
        write_text(folder / markdown, _markdown(page.title, page.verdicts, shown))
        facts = {"generator": GENERATOR, "title": page.title, "verdicts": page.verdicts, "sections": shown}
        write_text(folder / "index.html", fill_template("page.html", facts))
    return folder / "index.html"


def _markdown(title: str, verdicts: list[tuple[str, str]], sections: list[Section]) -> str:
    lines = [f"# {markdown_text(title)}", "", *_paragraphs([text for _, text in verdicts])]
    for section in sections:
        lines += [f"## {markdown_text(section.title)}", ""] if section.title else []
        lines += _paragraphs([section.about, *section.missing])
        for panel in section.panels:
            lines += [f"### {markdown_text(panel.title)}", "", *_paragraphs([panel.about])]
            lines += [f"![{markdown_text(panel.title)}](figures/{panel.picture.name}.png)", ""]
        for axis, picture in section.by_axis:
            lines += [f"![{markdown_text(f'{section.title}, by {axis}')}](figures/{picture.name}.png)", ""]
        for heading, table in section.tables:
            lines += [f"### {markdown_text(heading)}", ""] if heading else []
            lines += [table.markdown(), ""]
        for prompt, continuations in section.samples:
            lines += ["Prompt:", "", *markdown_block(prompt), ""]
            for name, text in continuations:
                lines += [f"{markdown_text(name)}:", "", *markdown_block(text), ""]
        for about, text in [*section.code, *section.folded]:
            lines += [*_paragraphs([about]), *markdown_block(text), ""]
        lines += _paragraphs(section.notes)
    return "\n".join(lines)


def _paragraphs(texts: list[str]) -> list[str]:
    return [part for text in texts if text for part in (markdown_text(text), "")]
