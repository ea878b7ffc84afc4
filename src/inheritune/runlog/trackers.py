"""TensorBoard, Weights & Biases and trackio: curves to look at.

metrics.jsonl stays the record of a training. A tracker that fails does not end the training.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from inheritune.errors import InputError, check_all
from inheritune.redaction import public
from inheritune.runlog.files import read_json, write_json
from inheritune.runlog.log import logger
from inheritune.runlog.metrics import read_metrics

PROJECT = "inheritune"
_UPLOAD_SECONDS = 120.0  # the longest that the end of a training waits for wandb's uploads
_STATE = "trackers.json"
_FIELDS: dict[str, Callable[[Any], Any]] = {"id": str, "title": str, "sent": int, "open": bool}  # of each tracker in it


class Tracker:
    """One open tracker. Its steps rise, except after `rewind`."""

    where: str  # tells a person where to look
    last: int | None = None  # the last step that it has when it is opened (-1: none); None where it cannot tell
    sent: int = -1  # the last step that it was given

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""
        raise NotImplementedError

    def rewind(self, step: int) -> bool:
        """Remove all points from `step` on; False from a tracker that cannot."""
        return False

    def close(self, failed: bool) -> None:
        """Send or write the rest; `failed` when the training did not reach its end."""
        raise NotImplementedError

    def take(self, record: dict[str, Any]) -> None:
        """Take the training's next record; where the training went back, it replaces old points if the tracker can."""
        if record["step"] <= self.sent and self.rewind(record["step"]):
            self.sent = record["step"] - 1
        self.catch_up([record])

    def catch_up(self, records: Sequence[dict[str, Any]]) -> None:
        """Take those of the records that it lacks."""
        for record in records:
            if record["step"] > self.sent:
                numbers = {
                    key: value
                    for key, value in record.items()
                    if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
                }
                self.write(record["step"], numbers)
                self.sent = record["step"]


@dataclass(frozen=True)
class Origin:
    """What a tracker is opened with: the arm's folder and title, the tracker's `id`, and the settings."""

    folder: Path
    title: str
    id: str
    config: dict[str, Any]

    @property
    def group(self) -> str:
        """The run that the arm belongs to."""
        return self.title.partition("/")[0]


class _Tensorboard(Tracker):
    """Event files in tensorboard/ of the arm's folder."""

    def __init__(self, origin: Origin) -> None:
        from torch.utils.tensorboard import SummaryWriter  # checked here, opened with the first step

        self._open, self._origin = SummaryWriter, origin
        self._writer: SummaryWriter | None = None
        self.where = f"tensorboard --logdir {origin.folder}"

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            self.rewind(step)
        assert self._writer is not None
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what a killed process had not written would be a hole in the curves

    def rewind(self, step: int) -> bool:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._open(str(self._origin.folder / "tensorboard"), purge_step=step)
        if step == 0:
            shown = json.dumps(self._origin.config, indent=2, ensure_ascii=False)
            self._writer.add_text("settings", f"```\n{shown}\n```", 0)
        return True

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _Wandb(Tracker):
    """A run of Weights & Biases, which is resumed by an id of ours. WANDB_... variables count where they are set."""

    def __init__(self, origin: Origin) -> None:
        import wandb

        ours = {
            "WANDB_DIR": ("dir", str(origin.folder)),
            "WANDB_PROJECT": ("project", PROJECT),
            "WANDB_NAME": ("name", origin.title),
            "WANDB_RUN_GROUP": ("group", origin.group),
        }
        fields = dict(field for variable, field in ours.items() if variable not in os.environ)
        settings: dict[str, Any] = {} if logger.isEnabledFor(logging.INFO) else {"silent": True}
        for name in ("x_disable_meta", "_disable_meta"):  # else it sends the command line, the user's name and folders
            if name in wandb.Settings.model_fields:
                settings[name] = True
        if "finish_timeout" in wandb.Settings.model_fields and "WANDB_FINISH_TIMEOUT" not in os.environ:
            settings["finish_timeout"] = _UPLOAD_SECONDS
        self._run = wandb.init(
            **fields,
            id=origin.id,
            resume="allow",
            reinit="create_new",  # a run of the caller's stays as it is
            config=origin.config,
            allow_val_change=True,
            settings=wandb.Settings(**settings),
        )
        # The server knows what an earlier process sent. Offline it is 0: parts of a run cannot be joined later, so
        # every part gets the whole history.
        self.last = self._run.starting_step - 1
        if self._run.disabled:
            self.where = "switched off by WANDB_MODE"
        else:
            self.where = f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step, commit=True)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Trackio(Tracker):
    """A run of trackio, where TRACKIO_... variables say. It is found again by name, so its name holds our id."""

    def __init__(self, origin: Origin) -> None:
        import trackio

        self._trackio = trackio
        with contextlib.redirect_stdout(io.StringIO()):  # standard output is for results
            self._run = trackio.init(
                PROJECT,
                name=f"{origin.title} {origin.id}",
                group=origin.group,
                config=origin.config,
                resume="allow",
            )
        # A thread writes the points twice a second, so that a kill loses some. trackio knows which it has (there is no
        # public way to ask); where it knows of none, it may have failed to look.
        last = getattr(self._run, "_next_step", 0) - 1
        self.last = last if last >= 0 else None
        self.where = f"trackio show --project {PROJECT}"

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self, failed: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()  # the run's own finish() would be called, and print, again at exit


# By name: the class, and the module that it needs.
TRACKERS: dict[str, tuple[Callable[[Origin], Tracker], str]] = {
    "tensorboard": (_Tensorboard, "torch.utils.tensorboard"),
    "wandb": (_Wandb, "wandb"),
    "trackio": (_Trackio, "trackio"),
}


def check_trackers(names: Iterable[str]) -> None:
    """Raise InputError for an unknown tracker, one whose package is missing, and for wandb without a login.

    Where a person is at the terminal, wandb asks for its key now, not after hours of work.
    """
    check_all(partial(_check_tracker, name) for name in names)


def _check_tracker(name: str) -> None:
    if name not in TRACKERS:
        raise InputError("track", f"there is no {name!r}", f"legal are {', '.join(TRACKERS)}")
    remedy = f"pip install 'inheritune[{name}]', or leave it out"
    try:
        module = importlib.import_module(TRACKERS[name][1])
    except ImportError as error:
        raise InputError("track", f"{name} is not installed ({error})", remedy) from None
    except Exception as error:
        raise InputError("track", f"{name} is installed and cannot be imported ({error})", remedy) from None
    if module.__file__ is None:  # Python takes any folder of that name in the working directory for a module
        raise InputError("track", f"{name} is not installed", remedy)
    if name == "wandb":
        _check_login()


def _check_login() -> None:
    import wandb

    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return
    try:
        wandb.login()
    except wandb.errors.UsageError as error:
        remedy = "run `wandb login`, or set WANDB_MODE=offline"
        raise InputError("track", f"wandb: {str(error).partition('. ')[0].rstrip('.')}", remedy) from None
    except Exception:  # wandb cannot be reached at this moment; the training can start all the same
        return


class Trackers:
    """The open trackers of one training; a context manager for one process of it.

    Opened again for the same folder, each tracker resumes what it showed before. No point is shown twice, and a tracker
    that is new or had failed gets the earlier points from metrics.jsonl. A tracker that fails is closed with one
    warning; nothing is raised.
    """

    def __init__(self, names: Sequence[str], folder: Path, title: str, config: dict[str, Any]):
        """`folder` is the training's, `title` its name in trackers ("run/arm"), `config` its settings there."""
        self._folder, self._title = folder, title
        self._open: dict[str, Tracker] = {}
        self._has_begun = False
        folder.mkdir(parents=True, exist_ok=True)
        self._state = self._read_state()
        for name in dict.fromkeys(names):
            self._try(name, self._start, name, config)
        self._write_state()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(failed=kind is not None)

    def write(self, record: dict[str, Any]) -> None:
        """Send the numbers of a record that is in metrics.jsonl already.

        The first record of a resumed training also sends the earlier ones that a tracker lacks.
        """
        if not self._has_begun:
            self._catch_up(record["step"])
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.take, record)

    def close(self, failed: bool = False) -> None:
        """Close all trackers; `failed` when the training did not reach its end."""
        if not self._has_begun and not failed:  # all steps had been trained before
            self._catch_up(None)
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close, failed)
            self._note(name)
        self._open.clear()

    def _start(self, name: str, config: dict[str, Any]) -> None:
        known = self._state.get(name) or {"id": uuid.uuid4().hex[:8], "title": self._title, "sent": -1}
        origin = Origin(self._folder, known["title"], known["id"], public(config))
        tracker = TRACKERS[name][0](origin)  # under its first title, by which trackio finds it, wherever the folder is
        tracker.sent = known["sent"] if tracker.last is None else tracker.last
        self._open[name] = tracker
        self._state[name] = known | {"sent": tracker.sent, "open": True}
        logger.info(f"{self._title}: {name}: {tracker.where}")

    def _catch_up(self, end: int | None) -> None:
        """Send every tracker the steps before `end` (None: all in metrics.jsonl) that it lacks."""
        self._has_begun = True
        if end is not None and all(tracker.sent >= end - 1 for tracker in self._open.values()):
            return
        records = [
            record for record in read_metrics(self._folder / "metrics.jsonl") if end is None or record["step"] < end
        ]
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.catch_up, records)

    def _try(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Do something with a tracker; when that fails, warn and close the tracker."""
        try:
            work(*arguments)
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning(
                f"{self._title}: {name} failed and is switched off: {line};"
                " the training continues, and metrics.jsonl has every step"
            )
            self._note(name)
            tracker = self._open.pop(name, None)
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close(failed=True)

    def _note(self, name: str) -> None:
        """Record on disk what an open tracker was given."""
        if name in self._open:
            self._state[name] |= {"sent": self._open[name].sent, "open": False}
            self._write_state()

    def _read_state(self) -> dict[str, dict[str, Any]]:
        """Each tracker's id and the last step that it was given; after a kill that is the last one of metrics.jsonl."""
        file = self._folder / _STATE
        if not file.exists():
            return {}
        try:
            state: dict[str, dict[str, Any]] = {
                name: {kind: form(known[kind]) for kind, form in _FIELDS.items()}
                for name, known in read_json(file).items()
            }
        except Exception:
            logger.warning(f"{file} is damaged; the trackers start again")
            return {}
        if any(known["open"] for known in state.values()):
            last = max((record["step"] for record in read_metrics(self._folder / "metrics.jsonl")), default=-1)
            state = {
                name: known | {"sent": max(known["sent"], last if known["open"] else -1), "open": False}
                for name, known in state.items()
            }
        return state

    def _write_state(self) -> None:
        if self._state:
            with contextlib.suppress(OSError):  # the training reports a full disk
                write_json(self._folder / _STATE, self._state)
