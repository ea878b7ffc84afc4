"""From text to prepared data: sources, filters, and the building of shards from them."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.corpus.building.preparation import prepare
    from inheritune.corpus.building.work import remove_left_over
    from inheritune.corpus.filters.base import check_filters
    from inheritune.corpus.samples import contents, documents, sample_text
    from inheritune.corpus.sources.inputs import list_inputs, state_of, text_bytes, whole_files

__getattr__, __dir__ = lazy.exports(__name__)
