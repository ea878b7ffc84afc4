"""Writing a Hugging Face checkpoint that plain transformers loads."""

from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.errors import RunError
from inheritune.runlog import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", folder: Path) -> None:
    """Write model and tokenizer to `folder`, which appears whole or not at all.

    Raises RunError when the disk is full.
    """
    from safetensors import SafetensorError

    try:
        with new_folder(folder) as partial:
            model.save_pretrained(partial)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
    except SafetensorError as error:
        raise RunError(str(folder), f"the weights cannot be written ({error})", "make room, then start again") from None
