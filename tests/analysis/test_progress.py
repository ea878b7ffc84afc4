"""A choice of blocks that is interrupted after any drop ends as one that is not."""

import signal
from pathlib import Path
from typing import Any

import pytest
from forward import as_rows, some_tokens
from tiny_families import build

from conftest import heard, read_json
from cut_off import cut_off_at_file
from inheritune.analysis import choose_blocks
from inheritune.errors import DamagedFile, Interrupted
from inheritune.recipe import Inherit
from processes import Started, program

ROWS = some_tokens(12, 21)
PLAIN = {"layers": 1, "choose": "auto", "recovery": None}
RECOVERED = {"layers": 1, "choose": "auto", "calibration": "60 tokens", "recovery": "60 tokens"}


def choose(model: Any, file: Path | None = None, stop_after: int | None = None, **spec: Any) -> dict[str, Any]:
    """A choice that gets Ctrl-C right after so many drops."""
    drops = 0

    def hear(line: str) -> None:
        nonlocal drops
        drops += line.startswith("dropped")
        if drops == stop_after:
            raise KeyboardInterrupt

    with heard(hear):
        found = choose_blocks(model, as_rows(ROWS), Inherit(**spec), progress=file).to_json()
    del found["seconds"]
    return found


@pytest.mark.parametrize("spec", [PLAIN, RECOVERED], ids=["plain", "with recovery"])
def test_a_resumed_choice_gives_what_an_uninterrupted_one_gives(tmp_path: Path, spec: dict[str, Any]) -> None:
    model, file = build("llama"), tmp_path / "drops.json"
    straight = choose(model, **spec)
    assert (straight["recovery_steps"] > 0) == (spec is RECOVERED)
    for drops in (1, 1, 1):  # Ctrl-C after each drop of three starts
        with pytest.raises(Interrupted, match=rf"kept in {file}: run the same command again to resume"):
            choose(model, file, drops, **spec)
    saved = read_json(file)
    assert [one["block"] for one in saved["drops"]] == [one["block"] for one in straight["dropped"]]
    assert choose(model, file, **spec) == straight
    assert saved == read_json(file)  # nothing was tried again


def test_another_choice_begins_anew(tmp_path: Path) -> None:
    """Other weights, another recovery: their drops would be others."""
    file = tmp_path / "drops.json"
    with pytest.raises(Interrupted, match="the first drop is kept"):
        choose(build("llama"), file, 1, **PLAIN)
    before = read_json(file)["fingerprint"]
    other = build("llama")
    other.model.layers[1].mlp.down_proj.weight.data[0, 0] += 1
    for model, spec in ((other, PLAIN), (build("llama"), RECOVERED)):
        with pytest.raises(Interrupted):
            choose(build("llama"), file, 1, **PLAIN)
        assert choose(model, file, **spec) == choose(model, **spec)
        assert read_json(file)["fingerprint"] != before
        file.unlink()


def test_without_a_file_the_message_says_that_nothing_is_kept() -> None:
    with pytest.raises(Interrupted, match="nothing of the choice is kept"):
        choose(build("llama"), None, 1, **PLAIN)


@pytest.mark.parametrize(("at", "kept"), [(1, "nothing of the choice is kept"), (2, "the first drop is kept in")])
def test_a_drop_that_a_signal_keeps_from_being_saved_is_not_said_to_be_kept(tmp_path: Path, at: int, kept: str) -> None:
    cut_off = cut_off_at_file(at, lambda file: file.name == "drops.json", KeyboardInterrupt)
    with cut_off, pytest.raises(Interrupted, match=kept):
        choose(build("llama"), tmp_path / "drops.json", **PLAIN)
    assert (tmp_path / "drops.json").exists() == (at == 2)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', "{"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "drops.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedFile, match=rf"{file}: .*; delete it"):
        choose(build("llama"), file, **PLAIN)


@pytest.mark.long
def test_inherit_resumes_its_choice_after_a_signal(tmp_path: Path, reference_folder: Path, text: Path) -> None:
    words = ("inherit", reference_folder, tmp_path / "out", "--layers", "1", "--choose", "auto", "--text", text)
    drops = tmp_path / ".out.drops.json"
    begun = Started(*words)
    begun.wait_until(drops.exists)
    begun.send(signal.SIGTERM)
    done = begun.end()
    if done.returncode:  # else it was done before the signal came
        assert done.returncode == 130, done.stderr
        assert "SIGTERM: stopping; a second signal ends at once" in done.stderr
        assert drops.exists()
        assert not (tmp_path / "out").exists()
        done = program(*words)
    assert done.returncode == 0, done.stderr
    assert not drops.exists()
    straight = program(*words[:2], tmp_path / "straight", *words[3:])
    assert straight.returncode == 0, straight.stderr
    assert done.stdout.replace("straight", "out") == straight.stdout.replace("straight", "out")
