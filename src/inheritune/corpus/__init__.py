"""From text to prepared data: sources, filters, and the building of shards from them.

The functions are loaded when first used, since a recipe imports the filters here for their keys and needs no more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inheritune.corpus.building.preparation import prepare as prepare
    from inheritune.corpus.building.work import remove_left_over as remove_left_over
    from inheritune.corpus.filters.base import check_filters as check_filters
    from inheritune.corpus.samples import documents as documents
    from inheritune.corpus.samples import sample_text as sample_text
    from inheritune.corpus.sources.inputs import list_inputs as list_inputs
    from inheritune.corpus.sources.inputs import state_of as state_of

_MODULES = {
    "building.preparation": ("prepare",),
    "building.work": ("remove_left_over",),
    "filters.base": ("check_filters",),
    "samples": ("documents", "sample_text"),
    "sources.inputs": ("list_inputs", "state_of"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
