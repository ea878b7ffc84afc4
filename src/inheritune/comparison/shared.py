"""What comparisons share: prepared text, references trained for them, teachers' outputs, arms. Kept under names that
say what they depend on.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from inheritune.corpus import list_inputs, state_of
from inheritune.groundwork import reference_training
from inheritune.recipe import Basis, Data
from inheritune.runlog import read_mapping, write_json

_COURSE = {"executor", "workers", "slurm"}  # keys of data that change how it is made, and not what comes out


class Shared:
    """The folder `place`, as the comparison in `folder` uses it.

    A comparison that has begun keeps to what it has begun with, even where the files of the text have changed since;
    kept.json in its folder says what that is.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        self.place, self._notes = place, folder / "kept.json"

    def data(self, basis: Basis, data: Data) -> Path:
        """The folder for the text `data` of a basis."""
        new = basis.reference.train
        tokenizer = basis.reference.model_dump(mode="json") if new is None else new.model_dump(mode="json")["tokenizer"]
        spec = {"data": data.model_dump(mode="json", exclude=_COURSE), "seed": basis.seed, "tokenizer": tokenizer}
        return self._folder("data", spec, lambda: [state_of(entry) for entry in list_inputs(data.sources)])

    def reference(self, basis: Basis, data: Path) -> Path:
        """The folder for a reference that is trained on the text in the folder `data`."""
        new = basis.reference.train
        assert new is not None
        spec = {
            "data": data.name,
            "model": new.model,
            "train": reference_training(basis, new).model_dump(mode="json", exclude={"micro_batch", "checkpoint"}),
            "evaluate": basis.evaluate.model_dump(mode="json", exclude={"tolerance"}),
            "seed": basis.seed,
        }
        return self._folder("reference", spec, list)

    def teachers(self) -> Path:
        """The folder for the outputs of teachers, which tell them apart themselves."""
        return self.place / "teachers"

    def arm(self, folder: Path, spec: dict[str, Any]) -> bool:
        """Make `folder`, where an arm is trained, a link to the folder in which all suites have the arm `spec`. Whether
        it is finished there. What a comparison has already begun, and an arm on a disk without links, stays its own.
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

    def _folder(self, kind: str, spec: dict[str, Any], states: Any) -> Path:
        asked = f"{kind}-{_digest(spec)}"
        known: dict[str, str] = read_mapping(self._notes) if self._notes.exists() else {}
        if asked not in known:
            known[asked] = f"{kind}-{_digest([spec, states()])}"
            write_json(self._notes, known)
        return self.place / known[asked]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
