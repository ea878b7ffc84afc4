"""`make fast` runs the tests that belong to a change."""

from pathlib import Path

import changed


def write(place: Path, text: str = "") -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return place


def test_tests_of_a_module_are_those_of_its_room_that_mention_it(tmp_path: Path) -> None:
    module = write(tmp_path / "src/inheritune/room/door.py", "def open_door(): ...\ndef _lock(): ...\n")
    by_function = write(tmp_path / "tests/room/test_guests.py", "from inheritune.room import open_door")
    write(tmp_path / "tests/room/test_window.py", "_lock = open_doors = 1")
    write(tmp_path / "tests/other/test_door.py", "open_door")
    alone = write(tmp_path / "src/inheritune/cellar.py", "def dig(): ...\n")
    of_cellar = write(tmp_path / "tests/test_cellar.py", "from inheritune import cellar")
    assert changed.select_tests([module], tmp_path) == [by_function]
    assert changed.select_tests([alone, by_function], tmp_path) == [by_function, of_cellar]
    assert changed.select_tests([write(tmp_path / "README.md")], tmp_path) == []
