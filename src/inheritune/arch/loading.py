"""Loading a reference: config, tokenizer, weights. Nothing is unpickled and nothing is re-initialised in silence."""

import contextlib
import inspect
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.checkpoint_files import Located, locate, names_by_file
from inheritune.arch.structure import check_decoder
from inheritune.arch.weights import StoredWeights
from inheritune.errors import InputError
from inheritune.recipe import Reference

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_config(reference: Reference) -> "PretrainedConfig":
    """The reference's config, without its weights. Raises InputError when it is not a decoder-only text model."""
    from transformers import AutoConfig

    assert reference.path is not None
    with _plain_errors(reference.path):
        config = AutoConfig.from_pretrained(**_arguments(reference))
    check_decoder(config)
    return config


def load_tokenizer(reference: Reference) -> "PreTrainedTokenizerBase":
    """The reference's tokenizer. Raises InputError when there is none."""
    from transformers import AutoTokenizer

    place = reference.tokenizer or reference.path
    assert place is not None
    where = Reference(path=place, revision=None if reference.tokenizer else reference.revision)
    arguments = _arguments(where, tokenizer=True) | {"trust_remote_code": reference.trust_remote_code}
    with _plain_errors(place, "give one with reference.tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
    if len(tokenizer) < 2:
        raise InputError(place, "no tokenizer files there", "give one with reference.tokenizer")
    return tokenizer


def load_generation_config(reference: Reference) -> "GenerationConfig | None":
    """The reference's settings for generation; None where it comes without."""
    from transformers import GenerationConfig

    arguments = _arguments(reference)
    if "gguf_file" in arguments:
        return None
    name = arguments.pop("pretrained_model_name_or_path")
    arguments.pop("trust_remote_code")
    try:
        return GenerationConfig.from_pretrained(name, **arguments)
    except OSError:
        return None


def load_model(reference: Reference, dtype: Any = "auto") -> "PreTrainedModel":
    """The reference with its weights, in evaluation mode, as stored unless `dtype` says otherwise.

    A .gguf file is dequantised to float32; other quantised checkpoints are dequantised where transformers can.
    Raises InputError when the weights and the config do not fit (tensors missing, or of another shape), and for a
    quantisation that cannot be undone.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    assert reference.path is not None
    located_by = _arguments(reference)
    with _plain_errors(reference.path):
        config = AutoConfig.from_pretrained(**located_by)
        options = {} if "gguf_file" in located_by else _dequantising(config, reference.path)
        model, info = AutoModelForCausalLM.from_pretrained(
            **located_by,
            **options,
            dtype=dtype,
            output_loading_info=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
        )
    for what in ("mismatched_keys", "missing_keys"):
        if info[what]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[what])[:3])
            word = what.split("_")[0]
            raise InputError(
                reference.path,
                f"{len(info[what])} {word} tensors ({names} ...)",
                "get a checkpoint whose weights fit its config",
            )
    _forget_quantisation(model)
    model.config.name_or_path = reference.path
    return model.eval()


def open_weights(
    reference: Reference, config: "PretrainedConfig", needed: Callable[[list[str]], set[str]]
) -> StoredWeights | None:
    """The reference's stored tensors, without reading them; None where it has to be loaded whole by transformers: a .gguf
    file, a quantised checkpoint, or weights that are not in safetensors files.

    `needed` says which of all stored names are wanted: of a model on the hub only the files with those are fetched.
    """
    assert reference.path is not None
    located = locate(reference.path, reference.revision)
    if located.gguf_file is not None or getattr(config, "quantization_config", None) is not None:
        return None
    if getattr(config, "transformers_weights", None) is not None:
        return None
    with _plain_errors(reference.path):
        files = names_by_file(located, reference.revision, needed)
        return None if files is None else StoredWeights.open(reference.path, files)


def check_tokenizer_fits(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", place: str) -> None:
    """Raise InputError when the tokenizer's ordinary entries do not all have a row in the model's embedding.

    Added special tokens may lie beyond it: some models carry tokens that only their multimodal siblings embed.
    """
    special = set(tokenizer.added_tokens_decoder)
    largest = max(
        index for index in tokenizer.get_vocab().values() if index not in special or len(special) == len(tokenizer)
    )
    if largest >= config.vocab_size:
        raise InputError(
            place,
            f"tokenizer and model do not fit: the tokenizer's ids reach {largest}, the model has {config.vocab_size}",
            "give the tokenizer that belongs to the model",
        )


def silence_libraries() -> None:
    """Keep transformers' own progress bars and hints out of the terminal; errors still come as exceptions."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _arguments(reference: Reference, tokenizer: bool = False) -> dict[str, Any]:
    """What `from_pretrained` is given."""
    assert reference.path is not None
    located = locate_tokenizer(reference.path) if tokenizer else locate(reference.path, reference.revision)
    silence_libraries()
    arguments: dict[str, Any] = {
        "pretrained_model_name_or_path": located.name,
        "trust_remote_code": reference.trust_remote_code,
        "local_files_only": located.local_files_only,
    }
    if reference.revision is not None:
        arguments["revision"] = reference.revision
    if located.gguf_file is not None:
        arguments["gguf_file"] = located.gguf_file
    return arguments


def locate_tokenizer(path: str) -> Located:
    """Like `locate`, for a folder that need not hold a model."""
    here = Path(path).expanduser()
    if here.is_dir():
        return Located(str(here), local_files_only=True)
    return locate(path)


def _dequantising(config: "PretrainedConfig", place: str) -> dict[str, Any]:
    """What tells transformers to undo a checkpoint's quantisation on loading."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return {}
    fields = stored if isinstance(stored, dict) else stored.to_dict()
    method = str(fields.get("quant_method"))
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    if kind is None or "dequantize" not in inspect.signature(kind).parameters:
        raise InputError(
            place, f"quantised with {method}, which transformers cannot undo", "give the unquantised checkpoint"
        )
    return {"quantization_config": kind.from_dict({**fields, "dequantize": True})}


def _forget_quantisation(model: "PreTrainedModel") -> None:
    """Take the mark of quantisation off a model that was dequantised on loading.

    transformers refuses to save a model that carries the mark, though its tensors are plain floats by then.
    """
    for owner, names in (
        (model, ("hf_quantizer", "quantization_method")),
        (model.config, ("quantization_config",)),
    ):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    if hasattr(model, "is_quantized"):
        model.is_quantized = False


@contextlib.contextmanager
def _plain_errors(place: str, remedy: str = "check the path, and that the checkpoint is complete") -> Any:
    """Turn a library's complaint about what the user gave into one line; its progress bars go nowhere."""
    from huggingface_hub.errors import StrictDataclassError  # a config's field is of the wrong type, or fits no other
    from safetensors import SafetensorError

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except InputError:
        raise
    except (
        OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError, EOFError,
        pickle.UnpicklingError, SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            remedy = "if you trust its authors, switch it on with trust_remote_code"
        raise InputError(place, f"cannot be loaded: {text[:300]}", remedy) from None
