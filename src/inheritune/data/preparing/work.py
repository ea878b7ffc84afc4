"""The working folder of a preparation: what was read for which request, so that nothing is done twice.

What is read and tokenised depends on the sources, the filters of single documents, the seed and the tokenizer, and is
kept by task; how much of it is then drawn does not. So a run that was killed, one whose budget is changed, and one in
which a file was mended go on with what there is.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inheritune.data.preparing.drawing import Gate, Share
from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import locked, read_json, write_json


def work_folder(out: Path) -> Path:
    """Where the work for the folder `out` is kept until that is there."""
    out = out if out.name else out.absolute()  # as of "."
    return out.with_name(f".{out.name}.work")


def remove_left_over(out: Path) -> None:
    """Remove the work for `out` where that is finished: a kill came between its last step and the tidying up."""
    folder = work_folder(out)
    if not ((out / "manifest.json").is_file() and folder.exists()):
        return
    with contextlib.suppress(InputError), locked(folder):  # whoever has the lock is about to remove it
        shutil.rmtree(folder, ignore_errors=True)


class Work:
    """A folder with collected-N/, tokens-N/ for each round N of reading, and what the executors noted in tasks/."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self._request = folder / "request.json"
        self._gates = folder / "gates.json"

    def open(self, reading: dict[str, Any], tasks: list[list[dict[str, Any]]]) -> None:
        """Keep what was made with the same settings of `reading`, from inputs that are still as they were.

        `tasks` has for each task the state of its inputs.
        """
        before = self._before()
        now = json.loads(json.dumps({"reading": reading, "tasks": tasks}))
        if before is not None and _same_reading(before["reading"], now["reading"]):
            changed = _changed(before["tasks"], now["tasks"])
            self.say(
                f"data: going on with {self.folder}"
                + (f", {len(changed)} of {len(tasks)} tasks again, as their files have changed" if changed else "")
            )
            for rank in changed:
                self._drop(rank)
            self._forget_damaged([len(task) for task in tasks])
        else:
            if before is not None:
                self.say(f"data: {self.folder} was begun for other text or settings, beginning again")
            self.clear()
        write_json(self._request, now)

    def _before(self) -> Any:
        """What was noted of the request that the folder was begun for; None where too little is left to go on."""
        try:
            before = read_json(self._request)
            known = before["reading"]["sources"], before["tasks"], self.gates
        except (DamagedFile, FileNotFoundError, KeyError, TypeError, AttributeError):
            return None
        return before if known[-1] or not any(self.folder.glob("collected-*")) else None

    def _forget_damaged(self, inputs: list[int]) -> None:
        """Have done again what a loss of power or a hand has cut or changed since it was done.

        `inputs`: how many there are in each task.
        """
        from inheritune.data.preparing.collection import drop_damaged, is_collected, parts
        from inheritune.data.preparing.tokenising import TokenPart

        for round_ in range(len(self.gates)):
            collected, tokens = self.folder / f"collected-{round_}", self.folder / f"tokens-{round_}"
            missing = [rank for rank, count in enumerate(inputs) if not is_collected(collected, rank, count)]
            for rank in missing:
                drop_damaged(collected, rank)
                (self.folder / f"tasks/collect-{round_}/completions/{rank:05d}").unlink(missing_ok=True)
            if missing:  # then it is not known yet which part has which number
                shutil.rmtree(self.folder / f"tasks/tokenise-{round_}", ignore_errors=True)
            for rank, part in enumerate(parts(collected)):
                place = TokenPart.of(tokens, part.path)
                if not place.is_whole():
                    place.note.unlink(missing_ok=True)
                    (self.folder / f"tasks/tokenise-{round_}/completions/{rank:05d}").unlink(missing_ok=True)

    @property
    def gates(self) -> list[Gate]:
        """The gate of each round of reading so far; every one admits all that the one before does."""
        stored = read_json(self._gates) if self._gates.exists() else []
        return [
            Gate(*(tuple(Share(**share) for share in gate[use]) for use in ("validation", "training")))
            for gate in stored
        ]

    def add_gate(self, gate: Gate) -> None:
        """Begin another round of reading."""
        write_json(self._gates, [asdict(known) for known in [*self.gates, gate]])

    def result(self, selection: dict[str, Any]) -> Path:
        """The folder of what is written for this selection; one of another selection is given up."""
        note, result = self.folder / "selection.json", self.folder / "result"
        selection = json.loads(json.dumps(selection))
        if not note.exists() or read_json(note) != selection:
            shutil.rmtree(result, ignore_errors=True)
            for done in self.folder.glob("written-*.json"):
                done.unlink()
            write_json(note, selection)
        result.mkdir(exist_ok=True)
        return result

    def clear(self) -> None:
        """Remove all but the lock."""
        for old in self.folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            elif old.name != ".lock":
                old.unlink()

    def _drop(self, rank: int) -> None:
        """Forget what task `rank` has made, and what was made of all tasks together."""
        for old in self.folder.glob(f"*-*/{rank:05d}-*"):
            old.unlink()
        for done in self.folder.glob(f"tasks/collect-*/completions/{rank:05d}"):
            done.unlink()
        for kind in ("tasks/tokenise-*", "tasks/near-duplicates-*", "near-duplicates-*"):
            for old in self.folder.glob(kind):
                shutil.rmtree(old)
        (self.folder / "selection.json").unlink(missing_ok=True)
        if (self.folder / "tokenizer").exists():  # learnt from the text as it was
            for old in (self.folder / "tokenizer", *self.folder.glob("tokens-*")):
                shutil.rmtree(old)


def _same_reading(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Equal, but that a source may have begun to pass over what is broken: a finished task had nothing of it."""
    loosened = {
        **before,
        "sources": [
            {**old, "on_error": new["on_error"]} if old["on_error"] == "stop" else old
            for old, new in zip(before["sources"], now["sources"], strict=False)
        ],
    }
    return len(before["sources"]) == len(now["sources"]) and loosened == now


def _changed(before: list[Any], now: list[Any]) -> list[int]:
    """The tasks whose inputs are not what they were, those that there are no more included."""
    return [
        rank
        for rank in range(max(len(before), len(now)))
        if rank >= len(before) or rank >= len(now) or before[rank] != now[rank]
    ]
