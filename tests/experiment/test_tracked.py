"""`track` from the recipe and the command line to the trackers, played by one that keeps what it is given."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import inheritune
from conftest import read_json, tiny_recipe, weights
from inheritune.cli.commands import app
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import load_recipe
from inheritune.runlog import read_metrics, trackers
from inheritune.runlog.trackers import Origin, Tracker


class Recorder(Tracker):
    """Keeps everything; `opened` are all there were."""

    where, last = "here", None
    opened: list["Recorder"] = []
    stop_at: int | None = None

    def __init__(self, origin: Origin) -> None:
        self.origin, self.steps, self.failed = origin, list[int](), None
        self.opened.append(self)

    def write(self, step: int, values: dict[str, float]) -> None:
        if step == self.stop_at:
            raise KeyboardInterrupt  # no fault of the tracker: it passes through
        self.steps.append(step)
        self.values = values

    def rewind(self, step: int) -> bool:
        return False

    def close(self, failed: bool) -> None:
        self.failed = failed


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    Recorder.opened, Recorder.stop_at = [], None
    monkeypatch.setitem(trackers.TRACKERS, "trackio", (Recorder, "json"))
    return Recorder.opened


@pytest.mark.long
def test_every_training_of_a_run_is_shown_under_its_name(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, opened: list[Recorder]
) -> None:
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    plain = run(load_recipe(recipe, ["evaluate.tolerance=100"]), tmp_path / "plain")
    assert opened == []
    tracked = run(load_recipe(recipe, ["evaluate.tolerance=100", "track=trackio"]), tmp_path / "demo")
    assert [each.origin.title for each in opened] == ["demo/round 1-1layers", "demo/control random-1layers"]
    assert all(each.steps == list(range(11)) and each.failed is False for each in opened)
    assert opened[0].values.keys() == read_metrics(opened[0].origin.folder / "metrics.jsonl")[-1].keys() - {"step"}
    assert (opened[0].origin.config["layers"], opened[0].origin.config["train"]["length"]) == (1, "10 steps")
    assert opened[0].origin.folder == tmp_path / "demo" / "rounds" / "1-1layers"
    assert tracked.result.val_loss == plain.result.val_loss
    model = Path("rounds/1-1layers/model")
    assert weights(tmp_path / "plain" / model) == weights(tmp_path / "demo" / model)


@pytest.mark.long
def test_trackers_may_differ_when_a_run_goes_on(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, opened: list[Recorder]
) -> None:
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    chosen = ["grow=null", "controls=[]"]
    Recorder.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(recipe, [*chosen, "track=trackio"]), tmp_path / "demo")
    assert opened[0].failed is True
    run(load_recipe(recipe, chosen), tmp_path / "demo")
    assert len(opened) == 1


def test_only_the_first_process_tracks(tmp_path: Path, opened: list[Recorder]) -> None:
    from types import SimpleNamespace

    from inheritune.experiment.training_run import TrainingRun, _open_trackers
    from inheritune.recipe import Training
    from inheritune.runtime import start

    model: Any = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2), parameters=lambda: iter(()))
    settings = Training.model_validate({"length": "3 steps"})
    for rank in (0, 1):
        context: Any = SimpleNamespace(
            runtime=dataclasses.replace(start("cpu"), rank=rank, world_size=2), track=("trackio",), title="demo",
            seed=1,
        )  # fmt: skip
        with _open_trackers(TrainingRun("arm", tmp_path / str(rank), lambda: model, settings), context, model):
            pass
    assert [each.origin.folder.name for each in opened] == ["0"]


def test_one_training_is_tracked_from_python_and_the_command_line(
    text: Path, reference_folder: Path, tmp_path: Path, opened: list[Recorder], tokenizer: Any
) -> None:
    inheritune.prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    settings = {"length": "3 steps", "batch": "4 sequences", "sequence_length": 16}
    inheritune.train(str(reference_folder), tmp_path / "data", tmp_path / "one", settings=settings, track="trackio")
    words = ["train", str(reference_folder), str(tmp_path / "two"), "--data", str(tmp_path / "data")]
    words += ["--length", "3 steps", "--batch", "4 sequences", "--sequence-length", "16", "--track", "trackio"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert [each.origin.title for each in opened] == ["one/training", "two/training"]
    assert [each.steps for each in opened] == [[0, 1, 2, 3]] * 2
    assert read_json(tmp_path / "two" / "trackers.json")["trackio"]["sent"] == 3


def test_a_missing_tracker_is_found_before_anything_is_done(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (Recorder, "no_such_package"))
    recipe = load_recipe(write_recipe(tiny_recipe(text, reference_folder)), ["track=[wandb]"])
    with pytest.raises(InputError, match=r"track: wandb is not installed .*pip install 'inheritune\[wandb\]'"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="track: wandb is not installed"):
        inheritune.train("x", "y", tmp_path / "out", settings={"length": "3 steps"}, track=["wandb"])
    assert not (tmp_path / "out").exists()
