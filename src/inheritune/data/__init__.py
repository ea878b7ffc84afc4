"""Prepared data: token shards, their tokenizer, sequences and their order, batches; token files of other programs."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.data.chat_template import CannotRender, ChatTemplate, Conversation, Rendered, Spans
    from inheritune.data.clusters import FEW_DOCUMENTS, Clusters, clusters_of, segments_of
    from inheritune.data.conversations import BEGINS, COUNTS, MarkedTokens
    from inheritune.data.external_tokens import adopt, find_data, nanogpt_files, open_data, write_nanogpt
    from inheritune.data.loader import Batches, MicroBatch, nothing_stored
    from inheritune.data.order import batch_numbers, batch_windows, shuffled
    from inheritune.data.prepared import (
        FORMAT,
        Prepared,
        check_new,
        check_prefix,
        check_prefix_fits,
        check_tokenizer,
        check_vocabulary,
        has_result,
        note_beside,
        open_prepared,
        open_same,
        packing_of,
    )
    from inheritune.data.samples import preview, sample
    from inheritune.data.sequences import IGNORED, Examples, Packing, Rows, Sequences, placement_line
    from inheritune.data.shards import Array, Shard, Tokens
    from inheritune.data.token_files import list_token_files, tokens_in, typed
    from inheritune.data.tokenizer import Encoder, fingerprint, prefix_tokens, separator, special_ids, train_tokenizer

__getattr__, __dir__ = lazy.exports(__name__)
