"""From text to token sequences: documents, tokenizers, prepared data, the order of sequences."""

from inheritune.data.documents import Corpus, list_files
from inheritune.data.foreign import adopt, find_data, list_token_files, nanogpt_files, open_data, write_nanogpt
from inheritune.data.loader import IGNORED, Batches, MicroBatch, Sequences, batch_numbers, batch_windows, shuffled
from inheritune.data.preparation import prepare
from inheritune.data.prepared import Prepared, check_tokenizer, check_vocabulary, open_prepared
from inheritune.data.shards import Shard, Tokens
from inheritune.data.tokenizer import fingerprint, separator, train_tokenizer

__all__ = [
    "IGNORED",
    "Batches",
    "Corpus",
    "MicroBatch",
    "Prepared",
    "Sequences",
    "Shard",
    "Tokens",
    "adopt",
    "batch_numbers",
    "batch_windows",
    "check_tokenizer",
    "check_vocabulary",
    "find_data",
    "fingerprint",
    "list_files",
    "list_token_files",
    "nanogpt_files",
    "open_data",
    "open_prepared",
    "prepare",
    "separator",
    "shuffled",
    "train_tokenizer",
    "write_nanogpt",
]
