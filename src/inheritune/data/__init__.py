"""From text to token sequences: documents, tokenizers, prepared data, the order of sequences."""

from inheritune.data.filters.filtering import check_filters
from inheritune.data.loader import IGNORED, Batches, MicroBatch, Sequences, batch_numbers, sequence_number, shuffled
from inheritune.data.prepared import Prepared, check_tokenizer, check_vocabulary, open_prepared
from inheritune.data.preparing.preparation import prepare
from inheritune.data.sources.inputs import list_inputs
from inheritune.data.tokenizer import fingerprint, separator, train_tokenizer

__all__ = [
    "IGNORED",
    "Batches",
    "MicroBatch",
    "Prepared",
    "Sequences",
    "batch_numbers",
    "check_filters",
    "check_tokenizer",
    "check_vocabulary",
    "fingerprint",
    "list_inputs",
    "open_prepared",
    "prepare",
    "separator",
    "sequence_number",
    "shuffled",
    "train_tokenizer",
]
