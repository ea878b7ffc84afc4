"""From what a training leaves to what other programs read: Hugging Face checkpoints, and .gguf files for llama.cpp."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.conversion.checkpoint import ExportedCheckpoint, export, keep_frame
    from inheritune.conversion.gguf import GGUF_TYPES, GgufFile, export_gguf
    from inheritune.conversion.gguf_tokenizer import pre_tokenizer_name

__getattr__, __dir__ = lazy.exports(__name__)
