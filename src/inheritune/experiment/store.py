"""What is already done: results that are read back, and what several comparisons share."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inheritune.corpus import list_inputs, state_of
from inheritune.recipe import Basis, Data, reference_training
from inheritune.results import ResultFile
from inheritune.runlog import logger, read_mapping, write_json
from inheritune.runtime import Runtime

Result = TypeVar("Result", bound=ResultFile)
_EXECUTION = {"executor", "workers", "slurm"}  # keys of data that change how it is made and not the result


def once(runtime: Runtime, file: Path, kind: type[Result], make: Callable[[], Result], *needed: Path) -> Result:
    """The result in `file`, read by rank 0 for all processes.

    Where it or a folder of `needed` is missing, or an earlier version wrote it, `make` computes it on all processes and
    rank 0 writes it.
    """

    def read() -> Result | None:
        if not all(folder.is_dir() for folder in needed):
            return None
        if kind.is_outdated(file):
            logger.info(f"{file}: written by an earlier version, so this stage's last part is done again")
            return None
        return kind.read_if_there(file)

    result = runtime.on_rank0(read)
    if result is None:
        result = make()
        runtime.on_rank0(lambda: result.write(file))
    return result


class Shared:
    """Prepared text, trained references, outputs of teachers and arms that comparisons share, in the folder `place`.

    Each has a name made of a hash of what it depends on. A comparison keeps to what it has started with, even where the
    files of the text have changed since: kept.json in its `folder` says what that is.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        self.place, self._notes = place, folder / "kept.json"

    def data(self, basis: Basis, data: Data) -> Path:
        """The folder for the text `data` of a basis."""
        new = basis.reference.train
        given = basis.reference.model_dump(mode="json", exclude={"tune"})
        tokenizer = given if new is None else new.model_dump(mode="json")["tokenizer"]
        spec = {"data": data.model_dump(mode="json", exclude=_EXECUTION), "seed": basis.seed, "tokenizer": tokenizer}
        return self._folder("data", spec, lambda: [state_of(entry) for entry in list_inputs(data.sources)])

    def reference(self, basis: Basis, data: Path) -> Path:
        """The folder for a reference that is trained on the text in the folder `data`."""
        training, new, tune = reference_training(basis), basis.reference.train, basis.reference.tune
        assert training is not None
        spec = {
            "data": data.name,
            "model": new.model if new is not None else basis.reference.model_dump(mode="json", exclude={"train"}),
            "train": training.model_dump(mode="json", exclude={"micro_batch", "checkpoint"}),
            "evaluate": basis.evaluate.model_dump(mode="json", exclude={"tolerance"}),
            "seed": basis.seed,
        }
        return self._folder("reference", spec, list if tune is None else lambda: _files_of(basis.reference.title))

    def arm(self, folder: Path, spec: dict[str, Any]) -> bool:
        """Make `folder`, where an arm is trained, a link to the folder in which all suites have the arm `spec`.

        Returns whether the arm is finished there. An arm that the comparison has already started, and an arm on a disk
        without links, keeps its own folder.
        """
        if folder.is_symlink() and not folder.exists():
            folder.unlink()  # what was shared is gone or elsewhere
        if folder.exists():
            return False
        place = self.place / "arms" / _digest(spec)
        place.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.symlink_to(os.path.relpath(place.resolve(), folder.parent.resolve()), target_is_directory=True)
        except OSError:
            return False
        return (place / "result.json").exists()

    def _folder(self, kind: str, spec: dict[str, Any], states: Callable[[], Sequence[Any]]) -> Path:
        key = f"{kind}-{_digest(spec)}"
        known: dict[str, str] = read_mapping(self._notes) if self._notes.exists() else {}
        if key not in known:
            known[key] = f"{kind}-{_digest([spec, states()])}"
            write_json(self._notes, known)
        return self.place / known[key]


def _files_of(model: str) -> list[Any]:
    """The files of a model on this machine, with sizes and times; none where it is a hub id."""
    place = Path(model)
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    states = [(str(file), file.stat()) for file in files if file.exists()]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
