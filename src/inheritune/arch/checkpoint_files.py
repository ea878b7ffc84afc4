"""Finding and checking a reference's files before anything is loaded."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inheritune.arch.gguf_header import read_gguf
from inheritune.errors import InputError
from inheritune.limits import check_counts, check_file, check_folder, check_header, check_regular, read_json
from inheritune.runlog import is_own

_TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Located:
    """Where a reference is, as transformers wants to know it; `gguf` is the path of a .gguf file."""

    name: str
    revision: str | None = None
    gguf: Path | None = None
    local_files_only: bool = True


def locate(
    path: str, revision: str | None = None, holds: tuple[str, ...] = ("config.json",), *, weights: bool = True
) -> Located:
    """Find a hub id, a folder or a .gguf file, and check what can be checked without reading weights.

    A model exists on the hub if it has one of the files `holds`. With `weights`, a folder must have some.

    Raises InputError, within seconds, when nothing is there, a folder has no config, a safetensors file is cut short or
    a shard is missing.
    """
    here = Path(path).expanduser()
    if revision is not None and here.exists():
        raise InputError(path, f"revision {revision} is of a model on the hub, and this is a local one", "leave it out")
    if here.suffix == ".gguf":
        if not here.exists() or here.is_dir():
            raise InputError(str(here), "no such file", "give the path of a .gguf file")
        check_regular(here)
        with here.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise InputError(str(here), "not a GGUF file (it does not begin with GGUF)", "get the file again")
        read_gguf(here)
        return Located(str(here.parent), gguf=here)
    if here.is_dir():
        _check_folder(here, weights)
        return Located(str(here))
    if here.is_file():
        what = "not a model: a file that is not .gguf"
        raise InputError(path, what, "give a checkpoint's folder, a .gguf file or a hub id")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(path, "no such model", "give a hub id such as org/name, an existing folder, or a .gguf file")
    return Located(path, revision, local_files_only=not _on_hub(path, revision, holds))


_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_ADAPTER = "adapter_config.json"
_TEMPLATES = "additional_chat_templates"
_TEXTS = (".json", ".jinja", ".model", ".vocab", ".tiktoken", ".txt", ".py", ".spm", ".bpe")
"""Suffixes of what transformers reads and writes again with a model or tokenizer: configs, vocabularies, templates."""


def weight_files(located: Located, needed: Callable[[str], bool]) -> tuple[tuple[Path, ...], dict[str, str]] | None:
    """The safetensors files that hold a model's weights, and for a sharded model the file name of each tensor.

    None when the weights are in other files. Of a sharded model on the hub only files with tensors that are `needed`
    (by their stored names) are fetched. Raises InputError when a file is missing.
    """
    if located.gguf is not None:
        return None
    single = fetch(located, _SINGLE)
    if single is not None:
        return (single,), {}
    fetched = fetch(located, _INDEX)
    if fetched is None:
        return None
    index = _index(fetched)
    local = Path(located.name).is_dir()
    files = []
    for name in sorted({file for stored, file in index.items() if local or needed(stored)}):
        file = fetch(located, name)
        if file is None:
            raise InputError(f"{located.name}: {name}", f"missing, though {_INDEX} names it", "get the file again")
        files.append(file)
    return tuple(files), index


def fetch(located: Located, name: str) -> Path | None:
    """A file of a model, in its folder, or from the hub or the local cache; None when the model has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(located.name).is_dir():
        file = Path(located.name) / name
        return file if file.is_file() else None
    try:
        file = Path(
            hf_hub_download(located.name, name, revision=located.revision, local_files_only=located.local_files_only)
        )
        check_file(file)
        return file
    except LocalEntryNotFoundError:
        if located.local_files_only:
            return None
        raise
    except EntryNotFoundError:
        return None


_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model",
    "sentencepiece.bpe.model", "vocab.txt", "tekken.json", "tiktoken.model",
)  # fmt: skip


def has_tokenizer(located: Located) -> bool:
    """Whether there is any file of a tokenizer."""
    return any(fetch(located, name) is not None for name in _TOKENIZER_FILES)


def locate_tokenizer(path: str, revision: str | None = None) -> Located:
    """Like `locate`, for a folder or hub id that need not hold a model."""
    here = Path(path).expanduser()
    if here.is_dir():
        check_folder(here)
        _check_links(here)
        return Located(str(here))
    return locate(path, revision, ("tokenizer_config.json", "tokenizer.json", "config.json"))


def _check_folder(folder: Path, weights: bool) -> None:
    config = folder / "config.json"
    if not config.is_file():
        what = "no config.json, so not a Hugging Face checkpoint"
        raise InputError(str(folder), what, "give the folder that holds config.json")
    check_folder(folder)
    check_config(config)
    check_no_adapter(Located(str(folder)))
    _check_links(folder)
    for index in folder.glob("*.safetensors.index.json"):
        for name in sorted(set(_index(index).values())):
            if not (folder / name).is_file():
                raise InputError(str(folder / name), f"missing, though {index.name} names it", "get the file again")
    files = tuple(sorted(folder.glob("*.safetensors")))
    _check_all_named(folder, files)
    for file in files:
        check_safetensors(file)
    if weights and not files and not list(folder.glob("*.bin")):
        raise InputError(str(folder), "no weights (*.safetensors)", "give a folder with a complete checkpoint")


def check_config(file: Path) -> None:
    """Raise InputError for a config.json that is no JSON, or states numbers beyond the limits."""
    fields = read_json(file)
    if isinstance(fields, dict):
        check_counts(fields, str(file))


def _check_all_named(folder: Path, files: tuple[Path, ...]) -> None:
    """Raise InputError for weights that transformers ignores: shards that the index does not name, and shards beside
    one file that should hold all.
    """
    index = folder / _INDEX
    if not index.is_file():
        return
    named = set(_index(index).values())
    if (folder / _SINGLE).is_file() and _SINGLE not in named:
        what = f"beside {_SINGLE}, so that there are two sets of weights, of which one would be ignored"
        raise InputError(str(index), what, "remove the one that is not meant, with its files")
    for file in files:
        if file.name not in named and _SHARD.fullmatch(file.name):
            what = f"{_INDEX} does not name it, so its tensors would be ignored"
            raise InputError(str(file), what, "remove it, or get the index that belongs to it")


def check_no_adapter(located: Located) -> None:
    """Raise InputError for a model with an adapter, which the weights beside it do not contain."""
    if located.gguf is None and fetch(located, _ADAPTER) is not None:
        raise InputError(
            f"{located.name}: {_ADAPTER}",
            "there is an adapter (LoRA), and it would be ignored",
            "merge it into the weights with peft's merge_and_unload, or remove its files",
        )


def _check_links(folder: Path) -> None:
    """Raise InputError for links out of the folder, whose content would be copied into what is written.

    Weights may be links: only tensors are taken from them. Where cards and licences are read, links are skipped.
    """
    for file in [*folder.iterdir(), *(folder / _TEMPLATES).glob("*")]:
        is_text = file.suffix.lower() in _TEXTS or file.name == _TEMPLATES
        if is_text and file.is_symlink() and (file.is_dir() or not is_own(file, folder)):
            raise InputError(str(file), "is a link that leads out of the folder", "put the file itself there")


def _index(file: Path) -> dict[str, str]:
    """For each tensor the file that holds it, by an index. Raises InputError where the file is no index."""
    try:
        files = read_json(file, "an index of weight files")["weight_map"]
        return {str(name): str(Path(holder)) for name, holder in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(str(file), f"not an index of weight files ({error!r})", "get the file again") from None


def check_safetensors(file: Path) -> None:
    """Raise InputError for a file that is damaged, or not as long as its header states."""
    from safetensors import SafetensorError, safe_open

    check_header(file)
    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except SafetensorError as error:
        raise InputError(str(file), f"damaged or cut short ({error})", "get the file again") from None


def _on_hub(path: str, revision: str | None, holds: tuple[str, ...]) -> bool:
    """True when the hub answers and has the model; False when only the local cache has it; else raises InputError."""
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    try:
        cached = any(isinstance(try_to_load_from_cache(path, name, revision=revision), str) for name in holds)
    except ValueError as error:
        raise InputError(
            path, f"not a hub id ({error})", "give org/name, an existing folder, or a .gguf file"
        ) from None
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes"):
        if cached:
            return False
        what = "not in the local cache, and HF_HUB_OFFLINE is set"
        raise InputError(path, what, "unset it, or give a folder or .gguf file")
    session, headers = get_session(), build_hf_headers()
    for name in holds:
        url = hf_hub_url(path, name, revision=revision)
        try:
            answer = session.head(url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True)
        except Exception as error:  # whatever HTTP client the hub library uses, with its own classes of errors
            if cached:
                return False
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            what = f"not a local folder, and the hub cannot be reached ({reason})"
            raise InputError(path, what, "give a folder or .gguf file, or connect") from None
        problem = answer.headers.get("X-Error-Code")
        if problem == "GatedRepo":
            raise InputError(path, "gated: not open to you", "ask for access on its page, then set HF_TOKEN")
        if problem == "RevisionNotFound":
            raise InputError(path, f"no revision {revision!r} on the hub", "check the revision")
        if answer.status_code in (401, 403):
            what = "no such model on the hub, or not open to you"
            raise InputError(path, what, "check the id; for a gated model set HF_TOKEN")
        if answer.status_code != 404:
            return True
    raise InputError(path, f"no such model on the hub (it has no {holds[-1]})", "check the id and the revision")
