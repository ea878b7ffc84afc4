"""Uploading a model with its card to the hub. All that can be checked without the hub is checked first."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inheritune.arch import locate
from inheritune.card.origin import CARD, UNKNOWN
from inheritune.card.text import PLACE
from inheritune.errors import InherituneError, InputError, RunError
from inheritune.limits import check_front_matter
from inheritune.redaction import holds_secret, without_secrets
from inheritune.results import RunSummary
from inheritune.runlog import is_own, logger, package_versions

_TOKEN_REMEDY = "set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens), or `hf auth login`"
_KEEP = " (and take its last line away, so that no run writes it anew)"
_OF_A_RUN = (
    "recipe.yaml", "suite.yaml", "manifest.json", "request.json", "origin.json", "trackers.json", "metrics.jsonl",
)  # fmt: skip
"""What a run needs to be resumed, as it was given; never uploaded."""

_WITH_PLACES = ("config.json", "generation_config.json", "tokenizer_config.json", "inheritance.json")
_LOOKS_LIKE_A_TOKEN = re.compile(r"\b(?:hf|api)_[A-Za-z0-9]{3,}")


@dataclass(frozen=True)
class Upload:
    """A planned upload: `files` by name with their bytes, the `card`'s metadata, and `notes` on what a person should
    do first.
    """

    folder: Path
    repo_id: str
    private: bool
    revision: str | None
    files: tuple[tuple[str, int], ...]
    card: dict[str, Any]
    notes: tuple[str, ...]


def prepare_upload(place: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None) -> Upload:
    """Find the model in `place` (a run, a training's folder, a model's) and check it. Uses no network.

    Raises InputError for a folder without a whole model, a run that is not finished, a card that is damaged, and an id
    that is none.
    """
    _check_id(repo_id, revision)
    folder = find_model(Path(place))
    locate(str(folder))  # config, headers of the weights, all of their files
    files = tuple((name, (folder / name).stat().st_size) for name in _names(folder) if name not in _OF_A_RUN)
    card = _card(folder)
    for name in (CARD, *_WITH_PLACES):
        file = folder / name
        if file.is_file() and holds_secret(file.read_text(encoding="utf-8", errors="replace")):
            what = "holds what looks like a credential (a token, or a password in an address)"
            raise InputError(str(file), what, "take it out (a run writes its card anew when it is started again)")
    return Upload(folder, repo_id, private, revision, files, card, tuple(_notes(folder, dict(files), card)))


def _names(folder: Path) -> Iterator[str]:
    """The files of the folder by their names in it. Raises InputError for one whose content lies elsewhere."""
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or (file.is_dir() and not file.is_symlink()):
            continue
        if not is_own(file, folder):
            what = "is a link that leads out of the folder, or no plain file, and its content would be uploaded"
            raise InputError(str(file), what, "put the file itself there, or remove the link")
        yield inner.as_posix()


def find_model(place: Path) -> Path:
    """The folder of the model that `place` is, or whose result it is. Raises InputError where there is none."""
    remedy = "give a run's folder, or that of a model (with config.json)"
    if not place.is_dir():
        raise InputError(str(place), "is a file" if place.exists() else "no such folder", remedy)
    if (place / "config.json").is_file():
        return place
    if (place / "summary.json").is_file():
        summary = RunSummary.read(place / "summary.json")
        if not summary.finished:
            what = "the run is not finished, so it has no result"
            raise InputError(str(place), what, "finish it with `inheritune run`, or give a round's model")
        model = summary.result.model
        if not model or Path(model).is_absolute() or ".." in Path(model).parts:
            what = f"names no model of this run as its result (got {model!r})"
            raise InputError(str(place / "summary.json"), what, "give the folder of a round's model")
        return find_model(place / model)
    if (place / "comparison.json").is_file():
        raise InputError(str(place), "a comparison, which has several models", "give an arm's model: arms/*/*/model")
    if (place / "model" / "config.json").is_file():
        return place / "model"
    raise InputError(str(place), "no model there (no config.json)", remedy)


def token_source() -> str | None:
    """Where a token for the hub would come from; None where there is none. Reads no token and uses no network."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        if os.environ.get(name, "").strip():
            return name
    return "the hub's own login" if Path(constants.HF_TOKEN_PATH).is_file() else None


def upload(planned: Upload) -> str:
    """Upload a model in one commit, to a repository that is made where there is none; returns the commit's address.
    What the hub says about the card is a warning.

    Raises InputError where the hub refuses (no token, no right to write, a public repository where a private one was
    asked for), RunError where it cannot be reached or fails. No message has the token in it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token: str | None = None
    with _plain_errors(planned.repo_id, lambda: token):
        token = get_token()
        if token is None:
            raise InputError("HF_TOKEN", "there is no token, and the hub takes uploads only with one", _TOKEN_REMEDY)
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise InputError("HF_TOKEN", "it has characters that no token has", _TOKEN_REMEDY)
        api = HfApi(token=token)
        api.create_repo(planned.repo_id, private=True if planned.private else None, exist_ok=True)
        if planned.private and not api.repo_info(planned.repo_id).private:
            what = "is there already and is public, and --private was asked for"
            raise InputError(planned.repo_id, what, "make it private on its page, or give another id")
        if planned.revision is not None:
            api.create_branch(planned.repo_id, branch=planned.revision, exist_ok=True)
        operations = [CommitOperationAdd(name, _content(planned, name)) for name, _ in planned.files]
        message = f"Upload with inheritune {package_versions(['inheritune'])['inheritune']}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            done = api.create_commit(planned.repo_id, operations, revision=planned.revision, commit_message=message)
        for warning in caught:
            logger.warning(without_token(" ".join(str(warning.message).split()), token))
        return str(done.commit_url)


def _content(planned: Upload, name: str) -> str | bytes:
    """A file's path; for the card its text with the model's repository."""
    file = planned.folder / name
    if name != CARD:
        return str(file)
    at = f'"{planned.repo_id}"' + (f', revision="{planned.revision}"' if planned.revision is not None else "")
    return file.read_text(encoding="utf-8").replace(f'"{PLACE}"', at).encode()


def _check_id(repo_id: str, revision: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    remedy = "give OWNER/NAME, of letters, digits, - _ and . (at most 96 characters)"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(repo_id, f"not a repository's id ({error})", remedy) from None
    if "/" not in repo_id:
        raise InputError(repo_id, "not a repository's id: it has no owner", remedy)
    if revision is not None and not re.fullmatch(r"[\w./-]+", revision):
        raise InputError(f"--revision {revision!r}", "not the name of a branch", "give one such as v1")


def _card(folder: Path) -> dict[str, Any]:
    """The card's metadata; empty where there is no card. Raises InputError where it cannot be read."""
    import yaml
    from huggingface_hub import metadata_load

    file = folder / CARD
    if not file.is_file():
        return {}
    try:
        check_front_matter(file)
        return metadata_load(file) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(str(file), f"its metadata is damaged ({error})", "mend it between its two lines ---") from None


def _notes(folder: Path, files: dict[str, int], card: dict[str, Any]) -> Iterator[str]:
    kept = [name for name in _OF_A_RUN if (folder / name).is_file()]
    if kept:
        yield f"not uploaded, as they tell of this machine and may hold credentials: {', '.join(kept)}"
    if CARD not in files:
        yield f"there is no {CARD}: nothing says where the model comes from, nor under which licence"
    elif card.get("license", UNKNOWN) == UNKNOWN:
        yield f"the licence is unknown: find out the reference's, and state it as `license` in README.md{_KEEP}"
    if CARD in files and not card.get("base_model"):
        yield f"no base_model: the reference's id on the hub is not known; if it is there, state it in README.md{_KEEP}"
    if not any(name.startswith(("tokenizer", "vocab", "spiece", "tekken")) for name in files):
        yield "there is no tokenizer, so nobody can use it with text"
    code = [name for name in files if name.endswith(".py")]
    if code:
        yield f"it comes with code of its own ({', '.join(code[:3])}): who loads it must trust it"


@contextmanager
def _plain_errors(repo_id: str, token: Any) -> Iterator[None]:
    """Turn what the hub's library raises into one line without a token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except InherituneError:
        raise
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE", "is set, so nothing can be uploaded", "unset it") from None
    except HfHubHTTPError as error:
        raise _refusal(repo_id, error, token()) from None
    except Exception as error:
        classes: set[str] = set()
        cause: BaseException | None = error
        while cause is not None:
            classes |= {kind.__name__ for kind in type(cause).__mro__}
            cause = cause.__cause__
        what = f"{type(error).__name__}: {without_token(str(error), token())}"
        if classes & {"TransportError", "ConnectionError", "TimeoutError"} and "ProtocolError" not in classes:
            raise RunError("the hub", f"cannot be reached ({what[:200]})", "connect, then push again") from None
        if isinstance(error, ValueError):
            raise InputError(repo_id, f"the hub does not take it ({what[:400]})", "mend it, then push again") from None
        raise RunError(repo_id, f"the upload failed ({what[:300]})", "push again") from None


def _refusal(repo_id: str, error: Any, token: str | None) -> InherituneError:
    """The hub's answer as a line."""
    status = error.response.status_code
    known = {
        401: InputError("HF_TOKEN", "the hub does not accept the token", _TOKEN_REMEDY),
        403: InputError(repo_id, "the token may not write there", _TOKEN_REMEDY),
        404: InputError(repo_id, "the hub has no such owner or repository", "check the id and the token's owner"),
    }
    if status in known:
        return known[status]
    answer = without_token(" ".join(str(error.server_message or error).split()), token)[:300]
    if 400 <= status < 500:
        return InputError(repo_id, f"the hub does not take it ({status}: {answer})", "mend it, then push again")
    return RunError(repo_id, f"the hub failed ({status}: {answer})", "push again later")


def without_token(text: str, token: str | None) -> str:
    """`text` without the token, however it is written there."""
    for form in {token, repr(token)[1:-1], ascii(token)[1:-1]} if token else ():
        text = text.replace(str(form), "[token]")
    return without_secrets(_LOOKS_LIKE_A_TOKEN.sub("[token]", text))
