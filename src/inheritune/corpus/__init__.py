"""From text to prepared data: sources, filters, and the building of shards from them.

The functions are loaded when first used: a recipe asks this room for the keys of its filters, and needs no more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inheritune.corpus.building.preparation import prepare as prepare
    from inheritune.corpus.building.states import state_of as state_of
    from inheritune.corpus.building.work import remove_left_over as remove_left_over
    from inheritune.corpus.filters.filtering import check_filters as check_filters
    from inheritune.corpus.samples import documents as documents
    from inheritune.corpus.samples import sample_text as sample_text
    from inheritune.corpus.sources.inputs import list_inputs as list_inputs

_HOMES = {
    "check_filters": "filters.filtering",
    "documents": "samples",
    "list_inputs": "sources.inputs",
    "prepare": "building.preparation",
    "remove_left_over": "building.work",
    "sample_text": "samples",
    "state_of": "building.states",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
