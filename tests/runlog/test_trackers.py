"""Trackers: what they are sent, that no point stands twice after a kill, and that none of them ends a training.

Weights & Biases and trackio are played by modules that keep what they are given; TensorBoard is the real one.
"""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest

from inheritune.errors import InputError
from inheritune.recipe.models import Tracker as RecipeTracker
from inheritune.runlog import MetricsLog, Trackers, check_trackers, read_json, read_metrics
from inheritune.runlog.trackers import TRACKERS

Points = list[tuple[int, dict[str, float]]]


class LoginMissingError(Exception):
    pass


@dataclass
class FakeRun:
    """A run of both: wandb's `finish` takes an exit code, trackio's module finishes it."""

    points: Points
    starting_step: int = 0
    offline: bool = False
    disabled: bool = False
    dir: str = "somewhere/wandb/offline-run-1/files"
    url: str | None = "https://elsewhere/run"
    broken_at: int | None = None
    exit_code: int | None = None

    def log(self, values: dict[str, float], step: int, commit: bool = True) -> None:
        assert commit
        if step == self.broken_at:
            raise ConnectionError("the line\nis dead")
        self.points.append((step, values))

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


@dataclass
class Service:
    """What one tracker's server holds: points by id; `runs` and `asked` are those opened, in order."""

    stored: dict[str, Points] = field(default_factory=dict)
    runs: list[FakeRun] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    offline: bool = False
    broken_at: int | None = None
    unreachable: bool = False
    mode: str = "online"
    logged_in: bool = True

    def open(self, name: str, words: dict[str, Any]) -> FakeRun:
        if self.unreachable:
            raise ConnectionError("no such host")
        self.asked.append(words)
        points = [] if self.offline else self.stored.setdefault(name, [])
        run = FakeRun(points, points[-1][0] + 1 if points else 0, self.offline, broken_at=self.broken_at)
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Service:
    service, module = Service(), types.ModuleType("wandb")
    module.__file__ = "wandb/__init__.py"

    class Settings:
        model_fields = {"finish_timeout": None, "silent": None}

        def __init__(self, **given: Any) -> None:
            self.given = given

    def init(**words: Any) -> FakeRun:
        return service.open(words["id"], words)

    def login() -> None:
        if service.unreachable:
            raise ConnectionError("no such host")
        if not service.logged_in:
            raise LoginMissingError("No API key configured. Use `wandb login` to log in.")

    found: Any = module
    found.Settings, found.init, found.login = Settings, init, login
    found.errors = types.SimpleNamespace(UsageError=LoginMissingError)
    found.setup = lambda: types.SimpleNamespace(settings=types.SimpleNamespace(mode=service.mode))
    monkeypatch.setitem(sys.modules, "wandb", module)
    for variable in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_FINISH_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    return service


@pytest.fixture(autouse=True)
def shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Service:
    service, module = Service(), types.ModuleType("trackio")
    module.__file__ = "trackio/__init__.py"

    def init(project: str, **words: Any) -> FakeRun:
        print("* Trackio project initialized")
        run: Any = service.open(words["name"], {"project": project, **words})
        run._next_step = run.starting_step
        return run

    def finish() -> None:
        print("* Run finished")
        service.runs[-1].finish()

    found: Any = module
    found.init, found.finish = init, finish
    monkeypatch.setitem(sys.modules, "trackio", module)
    return service


def record(step: int) -> dict[str, Any]:
    shown = {"loss": 3.0 - step / 10, "learning_rate": 0.1} if step else {"val_loss": 3.5}
    return {"step": step, "tokens": step * 32, **shown, "note": "words", "flag": True}


def numbers(step: int) -> dict[str, float]:
    return {key: value for key, value in record(step).items() if key not in ("step", "note", "flag")}


def train(folder: Path, names: list[str], start: int, end: int, close: bool = True) -> None:
    """What a training does from the checkpoint of step `start` (0: the beginning) on; not closed, it was killed."""
    trackers = Trackers(names, folder, "demo/round 1", {"seed": 1})
    log = MetricsLog(folder / "metrics.jsonl", lambda record: 0 < start >= record["step"])
    for step in range(start + 1 if start else 0, end + 1):
        log.write(record(step))
        trackers.write(record(step))
    log.close()
    if close:
        trackers.close()


def events(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a tag."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here")
    shown = reader.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    return [(event.step, event.value) for event in shown.Scalars(tag)]


def shown_by_metrics(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = [(each["step"], each[tag]) for each in read_metrics(folder / "metrics.jsonl") if tag in each]
    return [(step, pytest.approx(value)) for step, value in found]


def test_the_recipe_knows_the_same_names() -> None:
    assert set(get_args(RecipeTracker)) == set(TRACKERS)


def test_no_trackers_leave_nothing(tmp_path: Path) -> None:
    train(tmp_path, [], 0, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_numbers_of_every_step_are_sent(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    service = request.getfixturevalue(name)
    train(tmp_path, [name], 0, 4)
    assert list(service.stored.values()) == [[(step, numbers(step)) for step in range(5)]]
    assert service.runs[0].exit_code == 0


def test_standard_output_stays_free_for_results(
    tmp_path: Path,
    trackio: Service,
    wandb: Service,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(tmp_path, ["trackio", "wandb"], 0, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "demo/round 1: trackio: trackio show --project inheritune" in caplog.messages
    assert "demo/round 1: wandb: https://elsewhere/run" in caplog.messages


def test_wandb_is_asked_for_a_run_of_our_name_in_the_arms_folder(
    tmp_path: Path, wandb: Service, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, ["wandb"], 0, 1)
    asked = wandb.asked[0]
    assert (asked["project"], asked["name"], asked["group"]) == ("inheritune", "demo/round 1", "demo")
    assert (asked["dir"], asked["config"], asked["resume"]) == (str(tmp_path), {"seed": 1}, "allow")
    assert asked["settings"].given == {"finish_timeout": 120.0}
    caplog.set_level("WARNING", "inheritune")
    Trackers(["wandb"], tmp_path, "demo/round 1", {})
    assert wandb.asked[1]["settings"].given["silent"] is True


@pytest.mark.parametrize(
    ("variable", "word"),
    [("WANDB_PROJECT", "project"), ("WANDB_NAME", "name"), ("WANDB_RUN_GROUP", "group"), ("WANDB_DIR", "dir")],
)
def test_wandbs_variables_count(
    variable: str, word: str, tmp_path: Path, wandb: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "mine")
    train(tmp_path, ["wandb"], 0, 1)
    assert word not in wandb.asked[0]


@pytest.mark.parametrize("close", [False, True], ids=["killed", "stopped"])
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_training_that_goes_on_shows_every_step_once(
    name: str, close: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = request.getfixturevalue(name)
    train(tmp_path, [name], 0, 6, close)
    train(tmp_path, [name], 4, 5, close)  # killed again, before it came as far as the first time
    train(tmp_path, [name], 4, 9)
    assert [[step for step, _ in points] for points in service.stored.values()] == [list(range(10))]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_what_a_kill_kept_from_being_sent_comes_from_the_metrics(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    service = request.getfixturevalue(name)
    train(tmp_path, [name], 0, 6, close=False)
    del service.runs[0].points[3:]
    train(tmp_path, [name], 5, 9)
    assert list(service.stored.values()) == [[(step, numbers(step)) for step in range(10)]]


def test_a_folder_that_was_moved_goes_on_under_its_first_title(tmp_path: Path, trackio: Service) -> None:
    train(tmp_path / "demo", ["trackio"], 0, 3)
    (tmp_path / "demo").rename(tmp_path / "other")
    with Trackers(["trackio"], tmp_path / "other", "other/round 1", {}) as trackers:
        trackers.write(record(4))
    assert list(trackio.stored.values()) == [[(step, numbers(step)) for step in range(5)]]
    assert [asked["group"] for asked in trackio.asked] == ["demo", "demo"]


def test_each_part_that_wandb_writes_offline_is_whole(tmp_path: Path, wandb: Service) -> None:
    wandb.offline = True
    train(tmp_path, ["wandb"], 0, 6, close=False)
    train(tmp_path, ["wandb"], 4, 9)
    assert [step for step, _ in wandb.runs[1].points] == list(range(10))
    assert wandb.asked[0]["id"] == wandb.asked[1]["id"]


def test_trackio_without_its_private_number_goes_by_ours(
    tmp_path: Path, trackio: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, ["trackio"], 0, 6, close=False)
    opened: Callable[..., FakeRun] = sys.modules["trackio"].init

    def init(*words: Any, **more: Any) -> FakeRun:
        run: Any = opened(*words, **more)
        del run._next_step
        return run

    monkeypatch.setattr(sys.modules["trackio"], "init", init)
    train(tmp_path, ["trackio"], 4, 9)
    assert [[step for step, _ in points] for points in trackio.stored.values()] == [list(range(10))]


def test_a_tracker_that_comes_later_gets_what_was_before(tmp_path: Path, trackio: Service, wandb: Service) -> None:
    train(tmp_path, ["trackio"], 0, 4)
    train(tmp_path, [], 4, 6, close=False)
    train(tmp_path, ["trackio", "wandb"], 6, 8)
    for service in (trackio, wandb):
        assert [[step for step, _ in points] for points in service.stored.values()] == [list(range(9))]


def test_a_training_without_a_step_left_hands_over_what_is_there(tmp_path: Path, wandb: Service) -> None:
    train(tmp_path, [], 0, 4)
    train(tmp_path, ["wandb"], 4, 4)
    train(tmp_path, ["wandb"], 4, 4)
    assert [[step for step, _ in points] for points in wandb.stored.values()] == [list(range(5))]


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(
    tmp_path: Path, wandb: Service, trackio: Service, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.broken_at = 3
    train(tmp_path, ["wandb", "trackio"], 0, 6)
    said = " ".join(caplog.messages)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "demo/round 1: wandb failed and is switched off: ConnectionError: the line is dead" in said
    assert wandb.runs[0].exit_code == 1
    (sent,) = trackio.stored.values()
    assert [step for step, _ in sent] == list(range(7))
    wandb.broken_at = None
    train(tmp_path, ["wandb", "trackio"], 5, 8)
    (sent,) = wandb.stored.values()
    assert [step for step, _ in sent] == list(range(9))


def test_a_service_out_of_reach_is_a_warning(tmp_path: Path, wandb: Service, caplog: pytest.LogCaptureFixture) -> None:
    wandb.unreachable = True
    train(tmp_path, ["wandb"], 0, 3)
    assert "no such host; the training continues" in " ".join(caplog.messages)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_a_training_that_breaks_off_is_said_to_have_failed(tmp_path: Path, wandb: Service) -> None:
    with pytest.raises(ZeroDivisionError), Trackers(["wandb"], tmp_path, "demo/a", {}):
        raise ZeroDivisionError
    assert wandb.runs[0].exit_code == 1


@pytest.mark.parametrize("content", ['{"wandb":', "[]", '{"wandb": {"id": 1}}'])
def test_a_damaged_note_begins_anew(
    content: str, tmp_path: Path, wandb: Service, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, ["wandb"], 0, 2)
    (tmp_path / "trackers.json").write_text(content, encoding="utf-8")
    train(tmp_path, ["wandb"], 2, 4)
    assert "the trackers start again" in " ".join(caplog.messages)
    assert [[step for step, _ in points] for points in wandb.stored.values()] == [[0, 1, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("close", [False, True], ids=["killed", "stopped"])
def test_tensorboard_shows_what_the_metrics_hold(tmp_path: Path, close: bool) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    train(tmp_path, ["tensorboard"], 0, 6, close)
    assert [step for step, _ in events(tmp_path, "tokens")] == list(range(7))  # on disk at once, for the next kill
    train(tmp_path, ["tensorboard"], 4, 5, close)
    train(tmp_path, ["tensorboard"], 4, 9)
    for tag in ("loss", "val_loss", "tokens", "learning_rate"):
        assert events(tmp_path, tag) == shown_by_metrics(tmp_path, tag)
    assert len(events(tmp_path, "tokens")) == 10
    assert read_json(tmp_path / "trackers.json")["tensorboard"]["sent"] == 9


def test_tensorboard_has_no_hole_where_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from torch.utils.tensorboard import SummaryWriter

    add_scalar = SummaryWriter.add_scalar

    def failing(writer: Any, tag: str, value: float, step: int) -> None:
        if step == 3:
            raise OSError("no space left")
        add_scalar(writer, tag, value, step)

    monkeypatch.setattr(SummaryWriter, "add_scalar", failing)
    train(tmp_path, ["tensorboard"], 0, 6, close=False)
    assert read_json(tmp_path / "trackers.json")["tensorboard"]["sent"] == 2
    monkeypatch.undo()
    train(tmp_path, ["tensorboard"], 5, 8)
    assert events(tmp_path, "tokens") == shown_by_metrics(tmp_path, "tokens")


def test_tensorboard_follows_a_training_that_goes_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    trackers: Trackers = Trackers(["tensorboard"], tmp_path, "demo/a", {})
    for step, loss in [(1, 3.0), (2, 2.0), (3, 9.0), (2, 1.5), (3, 1.0)]:
        trackers.write({"step": step, "loss": loss})
    trackers.close()
    assert events(tmp_path, "loss") == [(1, 3.0), (2, 1.5), (3, 1.0)]


def test_what_is_missing_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trackio: Service, wandb: Service
) -> None:
    check_trackers(["trackio", "wandb"])
    wandb.logged_in = False
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError) as caught:
        check_trackers(["tensorboard", "wandb", "trackio", "mlflow"])
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 3
    assert said[0].startswith("track: tensorboard is not installed")
    assert "pip install 'inheritune[tensorboard]'" in said[0]
    assert said[1] == "track: wandb: No API key configured; run `wandb login`, or set WANDB_MODE=offline"
    assert said[2] == "track: there is no 'mlflow'; legal are tensorboard, wandb, trackio"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_needs_no_login_where_it_sends_nothing(wandb: Service, mode: str) -> None:
    wandb.logged_in, wandb.mode = False, mode
    check_trackers(["wandb"])


def test_a_server_out_of_reach_does_not_keep_a_run_from_starting(wandb: Service) -> None:
    wandb.unreachable = True
    check_trackers(["wandb"])


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio").mkdir()  # as wandb leaves one called wandb where it was run
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match="trackio is not installed"):
        check_trackers(["trackio"])
