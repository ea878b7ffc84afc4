"""The test files for what changed since the last commit, one a line: `make fast` runs their quick tests.

A test file is chosen when it changed itself, or when it is in the room of a changed module (tests/ mirrors
src/inheritune/) and mentions the module or one of its functions or classes.
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "inheritune"


def changed_files(root: Path = ROOT) -> list[Path]:
    """Files that differ from the last commit, new ones included; of a clean checkout those of the last commit."""
    commands = (["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"])
    names = [name for words in commands for name in _lines(words, root)]
    names = names or _lines(["git", "diff", "--name-only", "HEAD~1", "HEAD"], root)
    return [root / name for name in names if (root / name).is_file()]


def _lines(command: list[str], root: Path) -> list[str]:
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.split("\n")[:-1]


def select_tests(files: list[Path], root: Path = ROOT) -> list[Path]:
    """The test files for changed files, in alphabetical order."""
    chosen = {file for file in files if file.name.startswith("test_") and file.suffix == ".py"}
    package = root / "src" / "inheritune"
    for file in files:
        if file.suffix != ".py" or package not in file.parents:
            continue
        place = file.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        words = "|".join(map(re.escape, _names(file)))
        nearby = [*(root / "tests" / room).glob("test_*.py"), *(root / "tests").glob(f"test_{room}*.py")]
        chosen |= {test for test in nearby if re.search(rf"\b({words})\b", test.read_text(encoding="utf-8"))}
    return sorted(chosen)


def _names(file: Path) -> list[str]:
    """The module's own name and those of its public functions and classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [file.stem, *(node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_")]


if __name__ == "__main__":
    for test in select_tests(changed_files()):
        print(test.relative_to(ROOT))
