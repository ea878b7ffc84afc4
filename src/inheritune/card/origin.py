"""Where a model comes from, as far as its own files say: hub id, revision, licence, languages. Nothing is guessed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from inheritune.arch import Located, fetch, locate, read_gguf
from inheritune.card.stated import hub_id, languages, legal_fields, licence_id, licence_link, licence_name, stated
from inheritune.errors import InputError
from inheritune.recipe import Reference, check
from inheritune.runlog import is_own

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = "README.md"
UNKNOWN = "unknown"
"""The hub's word for a licence that nobody has stated."""

_LICENCE_FILES = (
    "LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt", "COPYING", "NOTICE", "NOTICE.md",
    "NOTICE.txt", "Notice", "Notice.txt", "USE_POLICY", "USE_POLICY.md", "TERMS.md",
)  # fmt: skip
_NOTICE = "NOTICE"
_NOTICES = {
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n",
}
"""The text that a licence requires in such a file beside every derived model."""

_GGUF_FIELDS = {
    "license": licence_id,
    "license.name": licence_name,
    "license.link": licence_link,
    "languages": languages,
}
_LARGEST = 200_000  # bytes of a licence file
_SNAPSHOT = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})")
_REPOSITORY = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:\.git|/.*)?")


def _checked(check: Callable[[Any], Any]) -> AfterValidator:
    """Refuses a value that `check` does not accept (see `stated`); None is accepted."""

    def validate(value: Any) -> Any:
        if value is not None and check(value) is None:
            raise ValueError("not of its kind")
        return value

    return AfterValidator(validate)


HubId = Annotated[str | None, _checked(hub_id)]
PlainFiles = Annotated[
    dict[str, str], _checked(lambda files: files if all(Path(name).name == name for name in files) else None)
]


@dataclass(frozen=True)
class Licence:
    """A licence as the hub's metadata has it. `source`: where it was read, or why it is not known."""

    id: Annotated[str | list[str], _checked(licence_id)] = UNKNOWN
    name: Annotated[str | None, _checked(licence_name)] = None
    link: Annotated[str | None, _checked(licence_link)] = None
    source: str = ""


@dataclass(frozen=True)
class Origin:
    """A model that another one is made of. Raises ValueError for a field that is not of its kind.

    `name` is what a stranger may read (no folder of this machine), `hub_id` its address on the hub where that is known.
    `files` are its licence and notices by name, which are copied along. `left_out` says what of its card and files was
    not taken over, and why. `made`: its own card is one of ours, and `hub_id` is that of the model it was made of.
    """

    name: str
    hub_id: HubId = None
    revision: str | None = None
    licence: Licence = Licence()
    language: Annotated[str | list[str] | None, _checked(languages)] = None
    files: Annotated[
        dict[str, str], _checked(lambda files: files if all(Path(name).name == name for name in files) else None)
    ] = field(default_factory=dict)
    made: bool = False
    left_out: tuple[str, ...] = ()


def origin_of(reference: Reference, revision: str | None = None) -> Origin:
    """The origin that a reference's own files state; those of a model on the hub are fetched, or read from the cache.

    `revision` is its commit where that is known already. Raises InputError where the reference cannot be found, OSError
    where the hub breaks off.
    """
    if reference.path is None:
        why = (
            "its reference was trained from random weights by the same run; the licence is for whoever ran it to state"
        )
        return Origin("a model trained by the same run", licence=Licence(source=why))
    located = locate(reference.path, reference.revision, weights=False)
    if located.gguf is not None:
        return _of_gguf(located.gguf)
    origin, place = _of_files(located), Path(located.name)
    revision = origin.revision or revision
    if not place.is_dir():
        return replace(origin, name=located.name, hub_id=located.name, revision=revision)
    is_copy = origin.hub_id is not None and not origin.made  # of a model on the hub, in the hub's cache
    return replace(origin, name=str(origin.hub_id) if is_copy else place.resolve().name, revision=revision)


def origin_of_model(model: "Reference | PreTrainedModel") -> Origin:
    """The origin of a reference or of a model in memory, which is that of what it was loaded from.

    Where its files cannot be read, the licence is unknown.
    """
    if isinstance(model, Reference):
        path, revision, commit = str(model.path), model.revision, None
    else:
        path, revision = str(model.config.name_or_path or ""), getattr(model.config, "_commit_hash", None)
        commit = revision
    if not path:
        return Origin("a model in memory", licence=Licence(source="it was made of a model in memory, which has none"))
    try:
        fields = {"path": path, "revision": revision}
        return origin_of(model if isinstance(model, Reference) else check(Reference, fields, "model"), commit)
    except (InputError, OSError):
        return unreachable(path, revision)


def unreachable(path: str, revision: str | None = None) -> Origin:
    """The origin of a model whose files cannot be read."""
    on_hub = None if Path(path).exists() else hub_id(path)
    licence = Licence(source="the reference's files could not be read when this was written")
    return Origin(on_hub or Path(path).name, on_hub, revision, licence)


def _of_files(located: Located) -> Origin:
    """What README.md and licence files say, in a folder or on the hub."""
    where = str(fetch(located, "config.json") or located.name)
    snapshot = _SNAPSHOT.search(str(Path(where).absolute()))
    of_snapshot = hub_id(f"{snapshot[1]}/{snapshot[2]}") if snapshot else None
    metadata, left_out = stated(fetch(located, CARD))
    made = "inheritune" in metadata.get("tags", []) and of_snapshot is None
    base_id = metadata.get("base_model") if made else of_snapshot
    files = _licence_files(located, metadata.get("license_link"), left_out)
    licence = _licence(metadata, files)
    commit = snapshot[3] if snapshot and of_snapshot else None
    files = files | _notice(licence, files)
    return Origin("", base_id, commit, licence, metadata.get("language"), files, made, tuple(left_out))


def _licence_files(
    located: Located, link: str | None, left_out: list[str]
) -> dict[str, str]:  # fmt: skip
    """The texts of licences and notices by name; what is not taken is added to `left_out`, in words."""
    texts: dict[str, str] = {}
    named = (link,) if link is not None and "/" not in link and link not in (*_LICENCE_FILES, CARD) else ()
    for name in (*_LICENCE_FILES, *named):
        file = fetch(located, name)
        if file is None or (named == (name,) and file.suffix not in ("", ".md", ".txt")):
            continue
        if not is_own(file, file.parent):
            left_out.append(f"the file {name}, a link that leads out of its folder")
        elif file.stat().st_size > _LARGEST:
            left_out.append(f"the file {name}, which is too long for a licence")
        elif not any(name.lower() == other.lower() for other in texts):  # a disk may ignore case
            texts[name] = file.read_text(encoding="utf-8", errors="replace")
    return texts


def _notice(licence: Licence, files: Mapping[str, str]) -> dict[str, str]:
    ids = [licence.id] if isinstance(licence.id, str) else licence.id
    if any(name.upper().startswith(_NOTICE) for name in files):
        return {}
    asked = [_NOTICES[name] for name in ids if name in _NOTICES]
    return {_NOTICE: "".join(asked)} if asked else {}


def _licence(metadata: Mapping[str, Any], files: Mapping[str, str]) -> Licence:
    """The metadata's licence; else that of a licence file with the text of Apache 2.0 or MIT."""
    stated_id = metadata.get("license", UNKNOWN)
    if stated_id != UNKNOWN:
        return Licence(stated_id, metadata.get("license_name"), metadata.get("license_link"), f"the reference's {CARD}")
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
    """From a .gguf file's own metadata."""
    metadata = read_gguf(file).metadata
    general = {key.removeprefix("general."): value for key, value in metadata.items() if key.startswith("general.")}
    urls = (general.get(key) for key in ("source.repo_url", "repo_url", "source.url", "url"))
    matches = (_REPOSITORY.fullmatch(url) for url in urls if isinstance(url, str))
    repository = next((match[1] for match in matches if match), None)
    snapshot = _SNAPSHOT.search(str(file.absolute()))
    if snapshot is not None:
        repository = f"{snapshot[1]}/{snapshot[2]}"
    fields, left_out = legal_fields(general, _GGUF_FIELDS, "general.{} of the .gguf file")
    source = "the metadata of the reference's .gguf file (general.license)"
    licence = Licence(source=f"{source} has none")
    if fields.get("license", UNKNOWN) != UNKNOWN:
        licence = Licence(fields["license"], fields.get("license.name"), fields.get("license.link"), source)
    return Origin(
        file.name, hub_id(repository), snapshot[3] if snapshot else None, licence, fields.get("languages"),
        _notice(licence, {}), left_out=tuple(left_out),
    )  # fmt: skip
