"""The working folder of a preparation: what was read for which request, so that nothing is done twice.

What is read and tokenised depends on the sources, the filters for one document, the seed and the tokenizer, not on how
much is then drawn, and is kept by task. So a preparation that was killed, or whose budget or some files changed, uses
what exists.

The files keep the names of the first version (`gates.json` has the thresholds), so that its work is resumed too.
"""

import contextlib
import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inheritune.corpus.building.drawing import Threshold, Thresholds
from inheritune.data import has_result
from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import locked, logger, read_json, remove_old_claim, write_json


def work_folder(out: Path) -> Path:
    """The folder that keeps the work for the folder `out` until that is complete."""
    out = out if out.name else out.absolute()  # "." has no name
    return out.with_name(f".{out.name}.work")


def remove_left_over(out: Path) -> None:
    """Remove the work and the lock of a finished `out`, which a kill after the last step may have left."""
    if not has_result(out):
        return
    remove_old_claim(out)
    folder = work_folder(out)
    if folder.exists():
        with contextlib.suppress(InputError), locked(folder):  # another process with the lock is about to remove it
            shutil.rmtree(folder, ignore_errors=True)


class Work:
    """A folder with collected-N/, tokens-N/ for each round N of reading, and the executors' records in tasks/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._request = folder / "request.json"
        self._thresholds = folder / "gates.json"

    def open(self, reading: dict[str, Any], tasks: list[list[dict[str, Any]]]) -> None:
        """Keep what was made with the same `reading` settings from unchanged inputs.

        `tasks` has the states of the inputs of each task.
        """
        before = self._before()
        now = json.loads(json.dumps({"reading": reading, "tasks": tasks}))
        if before is not None and _same_reading(before["reading"], now["reading"]):
            pairs = itertools.zip_longest(before["tasks"], now["tasks"])  # tasks may have been added or removed
            changed = [rank for rank, (old, new) in enumerate(pairs) if old != new]
            again = f", {len(changed)} of {len(tasks)} tasks again, as their files have changed" if changed else ""
            logger.info(f"data: resuming {self.folder}{again}")
            for rank in changed:
                self._drop(rank)
            self._forget_damaged([len(task) for task in tasks])
        else:
            if before is not None:
                logger.info(f"data: {self.folder} has work for other text or settings, starting again")
            self.clear()
        write_json(self._request, now)

    def _before(self) -> Any:
        """The request of the work in the folder; None where too little is intact to resume."""
        try:
            before = read_json(self._request)
            needed = before["reading"]["sources"], before["tasks"], self.thresholds
        except (DamagedFile, FileNotFoundError, KeyError, TypeError, AttributeError):
            return None
        return before if needed[-1] or not any(self.folder.glob("collected-*")) else None

    def _forget_damaged(self, inputs: list[int]) -> None:
        """Forget tasks whose files were cut or changed. `inputs`: how many each task has."""
        from inheritune.corpus.building.collection import drop_damaged, is_collected, parts
        from inheritune.corpus.building.tokenising import TokenPart

        for round_ in range(len(self.thresholds)):
            collected, tokens = self.folder / f"collected-{round_}", self.folder / f"tokens-{round_}"
            missing = [rank for rank, count in enumerate(inputs) if not is_collected(collected, rank, count)]
            for rank in missing:
                drop_damaged(collected, rank)
                (self.folder / f"tasks/collect-{round_}/completions/{rank:05d}").unlink(missing_ok=True)
            if missing:  # the parts will have other numbers
                shutil.rmtree(self.folder / f"tasks/tokenise-{round_}", ignore_errors=True)
            for rank, part in enumerate(parts(collected)):
                files = TokenPart(part, tokens)
                if not files.is_whole():
                    files.note.unlink(missing_ok=True)
                    (self.folder / f"tasks/tokenise-{round_}/completions/{rank:05d}").unlink(missing_ok=True)

    @property
    def thresholds(self) -> list[Thresholds]:
        """The thresholds of each round of reading so far; each admits all that the one before does."""
        stored = read_json(self._thresholds) if self._thresholds.exists() else []
        return [
            Thresholds(*(tuple(Threshold(**one) for one in entry[use]) for use in ("validation", "training")))
            for entry in stored
        ]

    def add_thresholds(self, thresholds: Thresholds) -> None:
        """Begin another round of reading."""
        write_json(self._thresholds, [asdict(known) for known in [*self.thresholds, thresholds]])

    def result(self, selection: dict[str, Any]) -> Path:
        """The folder for the result of this selection; the result of another selection is removed."""
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
        """Forget what task `rank` made, and what was made of all tasks together."""
        for pattern in (f"*-*/{rank:05d}-*", f"tasks/collect-*/completions/{rank:05d}", "selection.json"):
            for file in self.folder.glob(pattern):
                file.unlink()
        shared = ["tasks/tokenise-*", "tasks/near-duplicates-*", "near-duplicates-*"]
        if (self.folder / "tokenizer").exists():  # trained on the text as it was
            shared += ["tokenizer", "tokens-*"]
        for pattern in shared:
            for old in self.folder.glob(pattern):
                shutil.rmtree(old)


def _same_reading(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether they are equal, except that a source may now skip broken text: a finished task had none."""
    pairs = zip(before["sources"], now["sources"], strict=False)
    loosened = [{**old, "on_error": new["on_error"]} if old["on_error"] == "stop" else old for old, new in pairs]
    return len(before["sources"]) == len(now["sources"]) and {**before, "sources": loosened} == now
