"""What every result has in common: a typed value that is read from a JSON file and written to one."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import read_mapping, write_json


class ResultPart(BaseModel):
    """A part of a result. Keys that a field does not name are ignored.

    An optional field that was not given is absent from the file; one that was given as None is null there.
    """

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, *sources: "ResultPart", **more: Any) -> Self:
        """A value of this class from the fields that it shares with `sources`, the later ones first, and from `more`.

        Only fields that were given are taken. Raises pydantic's ValidationError where one is missing.
        """
        shared = {name: value for source in sources for name, value in source.given().items()}
        return cls.model_validate({name: shared[name] for name in cls.model_fields if name in shared} | more)

    def given(self) -> dict[str, Any]:
        """The fields that were given, by name."""
        names = [name for name in type(self).model_fields if name in self.model_fields_set]
        return {name: getattr(self, name) for name in names}


class ResultFile(ResultPart):
    """A result with a JSON file of its own."""

    VERSION: ClassVar[int] = 1
    """The version that is written, and the newest one that is read. A file without one has version 1."""

    REMEDY: ClassVar[str] = "delete it; the stage that wrote it is then done again"
    """What to do about a damaged file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises DamagedFile, with the file, the key and the remedy, where a key is missing or has another type, and
        InputError where the file is of another version.
        """
        return cls.parse(read_mapping(path, remedy=cls.REMEDY), path)

    @classmethod
    def read_if_there(cls, path: Path) -> Self | None:
        """As `read`; None where there is no such file."""
        return cls.read(path) if path.is_file() else None

    @classmethod
    def is_outdated(cls, path: Path) -> bool:
        """Whether there is a file, and an earlier version wrote it. Raises DamagedFile where it is no mapping."""
        if not path.is_file():
            return False
        tree = read_mapping(path, remedy=cls.REMEDY)
        return "val_loss" in tree and _version(tree) in range(1, cls.VERSION)  # else it is damaged

    @classmethod
    def parse(cls, tree: dict[str, Any], path: Path) -> Self:
        """The value of what was read from `path`. Raises as `read` does."""
        version = _version(tree)
        if version != cls.VERSION:
            what = f"is of version {version}, not {cls.VERSION}"
            raise InputError(str(path), what, f"use the inheritune that wrote it, or {cls.REMEDY}")
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise DamagedFile(str(path), f"damaged: {_problem(error)}", cls.REMEDY) from None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The value as plain data, as it is in the file."""
        return {"version": self.VERSION} | self.model_dump(mode="json", exclude_unset=True)


def _version(tree: dict[str, Any]) -> Any:
    return tree.get("version", tree.get("format", 1))  # `format` was the name in three files


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, with the path of its key."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"it has no {key!r}"
    return f"{key!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
