"""Where a model comes from, as far as its own files say: hub id, revision, licence, languages. Nothing is guessed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import Located, fetch, locate, read_gguf
from inheritune.errors import InputError
from inheritune.limits import check_front_matter
from inheritune.recipe import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = "README.md"
UNKNOWN = "unknown"
"""The hub's word for a licence that nobody has stated."""

_LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
_LARGEST = 200_000  # characters of a licence file; longer ones are something else
_SNAPSHOT = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})")
_REPOSITORY = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:\.git|/.*)?")


@dataclass(frozen=True)
class Licence:
    """A licence as the hub's metadata has it. `source` says where it was read, or why it is not known."""

    id: str | list[str] = UNKNOWN
    name: str | None = None
    link: str | None = None
    source: str = ""

    @property
    def is_known(self) -> bool:
        """Whether anything says which one it is."""
        return self.id != UNKNOWN


@dataclass(frozen=True)
class Origin:
    """A model that another one is made of.

    `name` is what a stranger may read (no folder of this machine), `hub_id` its address on the hub where that is known.
    `files` are its licence and notices by name, which travel. `made` says that its own card is one of ours: it has gone
    through these hands before, and `hub_id` is that of the model it was made of.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    licence: Licence = Licence()
    language: str | list[str] | None = None
    files: dict[str, str] = field(default_factory=dict)
    made: bool = False

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Origin":
        """From what `dataclasses.asdict` gave."""
        return cls(**{**facts, "licence": Licence(**facts["licence"])})


def origin_of(reference: Reference, revision: str | None = None) -> Origin:
    """What a reference's own files say of it; of a model on the hub those are fetched, or read from the local cache.

    `revision` is its commit where that is known already. Raises InputError where the reference cannot be found, OSError
    where the hub breaks off.
    """
    if reference.path is None:
        why = (
            "its reference was trained from random weights by the same run; the licence is for whoever ran it to state"
        )
        return Origin("a model trained by the same run", licence=Licence(source=why))
    located = locate(reference.path, reference.revision, weights=False)
    if located.gguf_file is not None:
        return _of_gguf(located.files[0])
    found, place = _of_files(located, reference.revision), Path(located.name)
    if not place.is_dir():
        return replace(found, name=located.name, hub_id=located.name, revision=found.revision or revision)
    is_copy = found.hub_id is not None and not found.made  # of a model on the hub, in the hub's cache
    return replace(
        found, name=str(found.hub_id) if is_copy else place.resolve().name, revision=found.revision or revision
    )


def origin_of_loaded(model: "PreTrainedModel") -> Origin:
    """The same of a model in memory: what it was loaded from is asked, where that is a folder or in the hub's cache."""
    path, commit = str(model.config.name_or_path or ""), getattr(model.config, "_commit_hash", None)
    if not path:
        return Origin("a model in memory", licence=Licence(source="it was made of a model in memory, which has none"))
    try:
        return origin_of(Reference(path=path, revision=commit), commit)
    except (InputError, OSError):
        return unreachable(path, commit)


def unreachable(path: str, revision: str | None = None) -> Origin:
    """A model whose files cannot be looked at."""
    is_hub = _is_hub_id(path)
    why = "the reference's files could not be read when this was written"
    return Origin(path if is_hub else Path(path).name, path if is_hub else None, revision, Licence(source=why))


def _is_hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()


def _of_files(located: Located, revision: str | None) -> Origin:
    """What README.md and licence files say, in a folder or on the hub."""
    where = str(fetch(located, "config.json", revision) or located.name)
    snapshot = _SNAPSHOT.search(str(Path(where).absolute()))
    hub_id, commit = (f"{snapshot[1]}/{snapshot[2]}", snapshot[3]) if snapshot else (None, None)
    metadata = _metadata(fetch(located, CARD, revision))
    made = "inheritune" in (metadata.get("tags") or []) and hub_id is None
    if made:
        base = metadata.get("base_model")
        hub_id = base if isinstance(base, str) else None
    files = _licence_files(located, revision)
    return Origin("", hub_id, commit, _licence(metadata, files), metadata.get("language"), files, made)


def _metadata(card: Path | None) -> dict[str, Any]:
    """The metadata of a model's README.md; none where there is none, or it cannot be read as such."""
    import yaml
    from huggingface_hub import metadata_load

    if card is None:
        return {}
    try:
        check_front_matter(card)
        return metadata_load(card) or {}
    except (ValueError, yaml.YAMLError, InputError):
        return {}


def _licence_files(located: Located, revision: str | None) -> dict[str, str]:
    found = {}
    for name in _LICENCE_FILES:
        file = fetch(located, name, revision)
        if file is not None and file.stat().st_size <= _LARGEST:
            found[name] = file.read_text(encoding="utf-8", errors="replace")
    return found


def _licence(metadata: Mapping[str, Any], files: Mapping[str, str]) -> Licence:
    """The metadata's licence; else that of a licence file whose text is one of the two that are told without doubt."""
    stated = metadata.get("license")
    if stated and stated != UNKNOWN:
        return Licence(stated, metadata.get("license_name"), metadata.get("license_link"), f"the reference's {CARD}")
    name = next((name for name in files if name.startswith("LICEN")), None)
    if name is None:
        return Licence(source=f"neither the reference's {CARD} nor a licence file states one")
    text = " ".join(files[name].split())
    source = f"the reference's file {name}"
    if "Apache License Version 2.0, January 2004" in text:
        return Licence("apache-2.0", source=source)
    if text.startswith("MIT License") and "Permission is hereby granted, free of charge" in text:
        return Licence("mit", source=source)
    return Licence("other", "as-in-the-reference", name, source)


def _of_gguf(file: Path) -> Origin:
    """What a .gguf file's own metadata says."""
    fields = read_gguf(file).metadata

    def read(key: str) -> Any:
        return fields.get(f"general.{key}")

    urls = (read(key) for key in ("source.repo_url", "repo_url", "source.url", "url"))
    repository = next(
        (match[1] for url in urls if isinstance(url, str) and (match := _REPOSITORY.fullmatch(url))), None
    )
    snapshot = _SNAPSHOT.search(str(file.absolute()))
    if snapshot is not None:
        repository = f"{snapshot[1]}/{snapshot[2]}"
    stated = read("license")
    licence = Licence(source="the metadata of the reference's .gguf file (general.license) has none")
    if isinstance(stated, str) and stated and stated != UNKNOWN:
        source = "the metadata of the reference's .gguf file (general.license)"
        licence = Licence(stated, read("license.name"), read("license.link"), source)
    return Origin(file.name, repository, snapshot[3] if snapshot else None, licence, read("languages"))
