"""The working folder of a preparation: what was read for which request, so that nothing is done twice.

What is read and tokenised depends on the sources, the filters for one document, the seed and the tokenizer, and is
kept by task; how much of it is then drawn does not. So a run that was killed, one whose budget is changed, and one in
which a file was corrected resume with what exists.

The files keep the names of the first version (`gates.json` has the thresholds), so that its work is resumed too.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inheritune.corpus.building.drawing import Threshold, Thresholds
from inheritune.data import has_result
from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import locked, read_json, remove_old_claim, write_json


def work_folder(out: Path) -> Path:
    """Where the work for the folder `out` is kept until that is complete."""
    out = out if out.name else out.absolute()  # as of "."
    return out.with_name(f".{out.name}.work")


def remove_left_over(out: Path) -> None:
    """Remove work and lock of `out` where that is finished: a kill may come between its last step and the removal."""
    if not has_result(out):
        return
    remove_old_claim(out)
    folder = work_folder(out)
    if folder.exists():
        with contextlib.suppress(InputError), locked(folder):  # whoever has the lock is about to remove it
            shutil.rmtree(folder, ignore_errors=True)


class Work:
    """A folder with collected-N/, tokens-N/ for each round N of reading, and the executors' records in tasks/."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self._request = folder / "request.json"
        self._thresholds = folder / "gates.json"

    def open(self, reading: dict[str, Any], tasks: list[list[dict[str, Any]]]) -> None:
        """Keep what was made with the same settings of `reading`, from inputs that have not changed.

        `tasks` has for each task the state of its inputs.
        """
        before = self._before()
        now = json.loads(json.dumps({"reading": reading, "tasks": tasks}))
        if before is not None and _same_reading(before["reading"], now["reading"]):
            changed = _changed(before["tasks"], now["tasks"])
            self.say(
                f"data: resuming {self.folder}"
                + (f", {len(changed)} of {len(tasks)} tasks again, as their files have changed" if changed else "")
            )
            for rank in changed:
                self._drop(rank)
            self._forget_damaged([len(task) for task in tasks])
        else:
            if before is not None:
                self.say(f"data: {self.folder} has work for other text or settings, starting again")
            self.clear()
        write_json(self._request, now)

    def _before(self) -> Any:
        """The request that the folder has work for; None where too little is intact to resume."""
        try:
            before = read_json(self._request)
            needed = before["reading"]["sources"], before["tasks"], self.thresholds
        except (DamagedFile, FileNotFoundError, KeyError, TypeError, AttributeError):
            return None
        return before if needed[-1] or not any(self.folder.glob("collected-*")) else None

    def _forget_damaged(self, inputs: list[int]) -> None:
        """Forget the tasks whose files a loss of power or a person has cut or changed. `inputs`: those of each task."""
        from inheritune.corpus.building.collection import drop_damaged, is_collected, parts
        from inheritune.corpus.building.tokenising import TokenPart

        for round_ in range(len(self.thresholds)):
            collected, tokens = self.folder / f"collected-{round_}", self.folder / f"tokens-{round_}"
            missing = [rank for rank, count in enumerate(inputs) if not is_collected(collected, rank, count)]
            for rank in missing:
                drop_damaged(collected, rank)
                (self.folder / f"tasks/collect-{round_}/completions/{rank:05d}").unlink(missing_ok=True)
            if missing:  # then it is not known yet which part will have which number
                shutil.rmtree(self.folder / f"tasks/tokenise-{round_}", ignore_errors=True)
            for rank, part in enumerate(parts(collected)):
                files = TokenPart(part, tokens)
                if not files.is_whole():
                    files.note.unlink(missing_ok=True)
                    (self.folder / f"tasks/tokenise-{round_}/completions/{rank:05d}").unlink(missing_ok=True)

    @property
    def thresholds(self) -> list[Thresholds]:
        """Those of each round of reading so far; every one admits all that the one before does."""
        stored = read_json(self._thresholds) if self._thresholds.exists() else []
        return [
            Thresholds(*(tuple(Threshold(**one) for one in entry[use]) for use in ("validation", "training")))
            for entry in stored
        ]

    def add_thresholds(self, thresholds: Thresholds) -> None:
        """Begin another round of reading."""
        write_json(self._thresholds, [asdict(known) for known in [*self.thresholds, thresholds]])

    def result(self, selection: dict[str, Any]) -> Path:
        """The folder for the result of this selection; that of another selection is removed."""
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
    """Whether they are equal, but that a source may now skip broken text: a finished task had none of it."""
    pairs = zip(before["sources"], now["sources"], strict=False)
    loosened = [{**old, "on_error": new["on_error"]} if old["on_error"] == "stop" else old for old, new in pairs]
    return len(before["sources"]) == len(now["sources"]) and {**before, "sources": loosened} == now


def _changed(before: list[Any], now: list[Any]) -> list[int]:
    """The tasks whose inputs have changed, including those that no longer exist."""
    pairs = itertools.zip_longest(before, now)
    return [rank for rank, (old, new) in enumerate(pairs) if old != new]
