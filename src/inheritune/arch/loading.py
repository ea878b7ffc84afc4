"""Loading a reference: config, tokenizer, weights. Nothing is unpickled, and missing weights are an error."""

import contextlib
import copy
import io
import logging
import pickle
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.building import build_from, build_skeleton
from inheritune.arch.checkpoint_files import (
    Located,
    check_config,
    check_no_adapter,
    fetch,
    has_tokenizer,
    locate,
    locate_tokenizer,
    weight_files,
)
from inheritune.arch.gguf_config import restored_config
from inheritune.arch.gguf_header import read_gguf
from inheritune.arch.gguf_tensors import may_lack_biases, zero_biases
from inheritune.arch.kernels import keep_own_code
from inheritune.arch.padding import train_padding_rows
from inheritune.arch.quantisation import (
    check_undoable,
    forget,
    is_blockwise,
    loading_options,
    make_plain,
    quantisation,
    scaled_name,
    without_factors,
)
from inheritune.arch.stored import StoredWeights, text_name, text_part
from inheritune.arch.structure import decoder_config, find_structure, is_text_part
from inheritune.arch.tokenization import PROBES, SENTENCEPIECE_FILES, SentencePieceFiles, check_ids, truest
from inheritune.arch.unused import left_over, refuse_left_over
from inheritune.arch.weights import Names, Placement, check_fits, check_nothing_left
from inheritune.errors import InherituneError, InputError, is_failure
from inheritune.limits import check_folder, read_json
from inheritune.recipe import Reference
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PICKLE_REMEDY = "do not load it; get the checkpoint as .safetensors from a source that you trust"
_PICKLED = re.compile(r"GLOBAL ([\w.]+)")
_TOKENIZER_REMEDY = "give one with reference.tokenizer"


def load_config(reference: Reference, *, weights: bool = True) -> "PretrainedConfig":
    """The reference's config (of a composite, that of its text part), without the mark of a quantisation.

    With `weights`, the weights must exist too. Raises InputError when it is not a decoder-only text model, and for a
    quantisation that cannot be undone.
    """
    _, config, _ = _stored_config(reference, weights)
    with _plain_errors(_place(reference)):
        decoder = decoder_config(config)
        check_undoable(config, _place(reference))
        forget(config)
    return decoder


def _place(reference: Reference) -> str:
    assert reference.path is not None
    return reference.path


def _stored_config(reference: Reference, weights: bool = True) -> "tuple[Located, PretrainedConfig, bool]":
    """Where the reference is, its stored config, and whether that was changed: third-party attention is removed unless
    trusted, and settings of what a forward returns are reset.
    """
    from transformers import AutoConfig

    place = _place(reference)
    with _plain_errors(place):
        located = locate(place, reference.revision, weights=weights)
        silence_libraries()
        if located.gguf is not None:
            return located, copy.deepcopy(_gguf_config(located.gguf, located.gguf.stat().st_mtime_ns)), False
        if (file := fetch(located, "config.json")) is not None:
            check_config(file)
        config: PretrainedConfig = AutoConfig.from_pretrained(**_options(located, reference))
        _ = config.dtype is None or config.dtype.itemsize  # an invalid dtype raises here
        decoder = decoder_config(config)
        # The caller decides what a forward returns, and transformers refuses to save output_attentions with sdpa.
        returns = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
        changed = {name: value for name, value in returns.items() if getattr(decoder, name, value) != value}
        for name, value in changed.items():
            setattr(decoder, name, value)
        trial = copy.deepcopy(config)  # checked as it is when it is saved, with the attention that was chosen
        trial._attn_implementation = "sdpa"
        getattr(trial, "validate", int)()
    replaced = not reference.trust_remote_code and keep_own_code(config, place)
    return located, config, replaced or bool(changed)


@lru_cache(maxsize=8)
def _gguf_config(file: Path, changed: int) -> "PretrainedConfig":
    """The config of a .gguf file, with all that the file states, read once for each change of the file."""
    from transformers import AutoConfig

    from inheritune.arch.gguf_reader import fast_reading

    with fast_reading():
        config: PretrainedConfig = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    return config if config.is_encoder_decoder else restored_config(config, read_gguf(file))


def frame_config(frame: Path, trust_remote_code: bool = False) -> "PretrainedConfig":
    """The config in a folder that `save_frame` wrote. Raises InputError when it is damaged."""
    from transformers import AutoConfig

    silence_libraries()
    with _plain_errors(str(frame), "restore it as it was written"):
        check_folder(frame)
        config: PretrainedConfig = AutoConfig.from_pretrained(
            frame, local_files_only=True, trust_remote_code=trust_remote_code
        )
    if not trust_remote_code:
        keep_own_code(config, str(frame))
    return config


def load_tokenizer(reference: Reference, log: bool = False) -> "PreTrainedTokenizerBase":
    """The reference's tokenizer; see `find_tokenizer`. Raises InputError when there is none."""
    tokenizer = find_tokenizer(reference, log)
    if tokenizer is None:
        raise InputError(str(reference.tokenizer or reference.path), "no tokenizer files there", _TOKENIZER_REMEDY)
    return tokenizer


def find_tokenizer(reference: Reference, log: bool = False) -> "PreTrainedTokenizerBase | None":
    """The reference's tokenizer; None where it comes without any tokenizer file.

    Where there is a SentencePiece model, the tokenizer splits text as that does (see `truest`); with `log`
    a line says what that took. Raises InputError for files that make no tokenizer.
    """
    from transformers import AutoTokenizer

    place = reference.tokenizer or _place(reference)
    silence_libraries()
    located = locate_tokenizer(place, None if reference.tokenizer else reference.revision)
    note = None
    with _plain_errors(place, _TOKENIZER_REMEDY), _reading(located):
        if located.gguf is None and not has_tokenizer(located):
            return None
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_options(located, reference))
        tokenizer(["", *PROBES])  # wrong settings raise here
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            raise InputError(place, "a tokenizer of special tokens alone: files are missing", _TOKENIZER_REMEDY)
        check_ids(tokenizer, place, _TOKENIZER_REMEDY)
        if located.gguf is None and type(tokenizer).__module__.startswith("transformers."):
            trained = next(filter(None, (fetch(located, name) for name in SENTENCEPIECE_FILES)), None)
            if trained is not None:
                beside = (fetch(located, name) for name in ("tokenizer.json", "tokenizer_config.json"))
                tokenizer, note = truest(tokenizer, SentencePieceFiles(trained, *beside))
    for name in ("local_files_only", "is_local"):  # how it was loaded here is not to be saved with it
        tokenizer.init_kwargs.pop(name, None)
    if log and note is not None:  # not earlier: output inside the block above is discarded
        logger.info(note)
    return tokenizer


def load_generation_config(reference: Reference) -> "GenerationConfig | None":
    """The reference's settings for generation, or None. Raises InputError for damaged ones."""
    from transformers import GenerationConfig

    located = locate(_place(reference), reference.revision)
    file = None if located.gguf else fetch(located, "generation_config.json")
    if file is None:
        return None
    with _plain_errors(str(file), "mend it, or remove it"):
        fields = read_json(file)
        if not isinstance(fields, dict):
            raise ValueError("not a mapping")
        return GenerationConfig.from_dict(fields)


def load_model(reference: Reference) -> "PreTrainedModel":
    """The reference with its weights as stored, in evaluation mode.

    A .gguf file is dequantised to float32; other quantised checkpoints are dequantised where that can be done.
    Raises InputError when the weights and the config do not fit (tensors missing, of another shape, or more than the
    model takes), for parts of a .gguf file that the model cannot express, for a model with an adapter, and for a
    quantisation that cannot be undone.
    """
    place = _place(reference)
    located, config, replaced = _stored_config(reference)
    with _plain_errors(place):
        check_no_adapter(located)
    model = None
    if located.gguf is None:
        check_undoable(config, place)
        part, fields = is_text_part(config), quantisation(config)
        if part or (fields is not None and is_blockwise(fields)):
            weights = open_weights(reference, config)
            model = None if weights is None else _load_stored(reference, weights)
        if part and model is None:
            what = "its text part can only be taken from safetensors files, plain or FP8"
            raise InputError(place, what, "give a text-only checkpoint of the model")
    if model is None:
        model = _load_whole(reference, located, config, replaced)
    model.config.name_or_path = place
    train_padding_rows(model)
    return model.eval()


def _load_whole(
    reference: Reference, located: Located, config: "PretrainedConfig", replaced: bool
) -> "PreTrainedModel":
    """All weights, loaded by transformers; with `replaced`, `config` is not the stored one."""
    from transformers import AutoModelForCausalLM

    place, gguf = _place(reference), located.gguf is not None
    fields = {"quant_method": "gguf"} if gguf else quantisation(config)
    options = _options(located, reference) | ({} if gguf else loading_options(config))
    if gguf or replaced:
        options["config"] = config
    with _plain_errors(place), _reading(located), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the settings given here win over the checkpoint's
        model, info = AutoModelForCausalLM.from_pretrained(
            **options, dtype="auto", output_loading_info=True, weights_only=True, ignore_mismatched_sizes=True
        )
        if fields is not None:
            model = make_plain(model, fields)
    if gguf and may_lack_biases(config):
        info["missing_keys"] -= zero_biases(model, info["missing_keys"])
    _check_loaded(model, info, place, quantised=fields is not None)
    loaded: PreTrainedModel = model
    return loaded


def _check_loaded(model: "PreTrainedModel", info: dict[str, Any], place: str, quantised: bool) -> None:
    """Raise InputError where transformers did not fill a tensor of the model, or ignored one of the checkpoint."""
    for what in ("mismatched_keys", "missing_keys"):
        if info[what]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[what])[:3])
            problem = f"{len(info[what])} {what.removesuffix('_keys')} tensors ({names} ...)"
            raise InputError(place, problem, "get a checkpoint whose weights fit its config")
    if info["unexpected_keys"]:
        structure = find_structure(model)
        refuse_left_over(place, left_over(info["unexpected_keys"], model, structure, quantised=quantised))


def _load_stored(reference: Reference, weights: StoredWeights) -> "PreTrainedModel":
    """A model with all of `weights`, filled by transformers' own loader."""
    config = load_config(reference)
    skeleton = build_skeleton(config, reference.trust_remote_code)
    names = Names(skeleton)
    check_nothing_left(weights, names, find_structure(skeleton))
    check_fits(names, weights.tensors, weights.place)
    placement = Placement(weights, {name: name for name in weights.tensors})
    model = build_from(skeleton, placement, config.dtype or weights.dtype)
    model.generation_config = load_generation_config(reference) or model.generation_config
    return model


def open_weights(
    reference: Reference, config: "PretrainedConfig", needed: Callable[[str], bool] = lambda _: True
) -> StoredWeights | None:
    """The reference's stored tensors, without reading them; None where it has to be loaded whole: a .gguf file, a
    checkpoint quantised otherwise than as blockwise FP8, or weights that are not in safetensors files.

    Of a model on the hub only the files with tensors that are `needed` (by their stored names) are fetched. Tensors of
    blockwise FP8 are not the bytes in the files (`Placement.is_plain`).
    """
    place = _place(reference)
    located, stored, _ = _stored_config(reference)
    if located.gguf is not None or getattr(config, "transformers_weights", None) is not None:
        return None
    with _plain_errors(place):
        check_no_adapter(located)
    fields, part = quantisation(stored), is_text_part(stored)
    if fields is not None and not is_blockwise(fields):
        return None

    def is_needed(stored: str) -> bool:
        name = text_name(stored) if part else stored
        return needed(name) or (fields is not None and needed(scaled_name(name)))

    with _plain_errors(place):
        files = weight_files(located, is_needed)
        if files is None:
            return None
        weights = StoredWeights.open(place, *files)
    weights = text_part(weights) if part else weights
    if fields is None:
        return weights
    return without_factors(weights, fields, "F32" if str(config.dtype) == "torch.float32" else "BF16")


def check_tokenizer_fits(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", place: str) -> None:
    """Raise InputError when the tokenizer's ordinary entries do not all have a row in the model's embedding.

    Added special tokens may lie beyond it: some models carry tokens that only their multimodal siblings embed.
    """
    special = set(tokenizer.added_tokens_decoder)
    largest = max(
        index for index in tokenizer.get_vocab().values() if index not in special or len(special) == len(tokenizer)
    )
    if largest >= config.vocab_size:
        what = f"tokenizer and model do not fit: the tokenizer's ids reach {largest}, the model has {config.vocab_size}"
        raise InputError(place, what, "give the tokenizer that belongs to the model")


def silence_libraries() -> None:
    """Keep transformers' own progress bars and hints out of the terminal; errors still come as exceptions."""
    from transformers.utils import logging as transformers_logging

    # torchao, which transformers imports where it is installed, names kernels of other machines that it cannot load
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _reading(located: Located) -> "contextlib.AbstractContextManager[None]":
    """What is open while transformers reads a model's files."""
    if located.gguf is None:
        return contextlib.nullcontext()
    from inheritune.arch.gguf_reader import fast_reading

    return fast_reading()


def _options(located: Located, reference: Reference) -> dict[str, Any]:
    """Arguments for `from_pretrained`."""
    stated = {"revision": located.revision, "gguf_file": located.gguf and located.gguf.name}
    return {name: value for name, value in stated.items() if value is not None} | {
        "pretrained_model_name_or_path": located.name,
        "local_files_only": located.local_files_only,
        "trust_remote_code": reference.trust_remote_code,
    }


@contextlib.contextmanager
def _plain_errors(place: str, remedy: str = "check the path, and that the checkpoint is complete") -> Any:
    """Turn a library's error about the user's input into InputError; its progress bars are discarded."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (InherituneError, MemoryError):
        raise
    except BaseException as error:
        if not is_failure(error):  # libraries raise errors of any class at damaged files
            raise
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            error.filename = error.filename or place  # which reading leaves out
            raise
        raise InputError(place, *_in_words(error, remedy)) from None


def _in_words(error: BaseException, remedy: str) -> tuple[str, str]:
    """The part of a library's error that helps a user, and the remedy."""
    text = " ".join(str(error).split())
    if "weights_only" in text or isinstance(error, pickle.UnpicklingError):
        # torch advises to set weights_only to False, which would run any code in the file
        named = _PICKLED.search(text)
        if named:
            return f"refused: its weights are a pickle with more than tensors in it ({named[1]})", _PICKLE_REMEDY
        return "cannot be loaded: its weights are not a pickle of plain tensors, or damaged", _PICKLE_REMEDY
    if "trust_remote_code" in text:
        remedy = "if you trust its authors, switch it on with trust_remote_code"
    if not text or not isinstance(error, OSError | ValueError | RuntimeError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return f"cannot be loaded: {text if len(text) <= 300 else f'{text[:300].rstrip()}...'}", remedy
