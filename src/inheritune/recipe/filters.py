"""The recipe's `data.filters`: a list of filters. The keys of each are in its own file in corpus/filters/."""

import itertools
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

from pydantic import AfterValidator, BeforeValidator, Field

from inheritune.settings.components import as_named, subclasses_in
from inheritune.settings.part import Part


class FilterConfig(Part):
    """The keys that all filters have."""

    filter: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """The name of this filter in reports and samples (letters, digits, `_`, `-`, `.`). Two filters of one kind need
    different names. Default: the kind of the filter."""

    compares_all: ClassVar[bool] = False
    """Whether the filter compares all documents. Otherwise it looks at one document at a time."""

    @property
    def cuts_text(self) -> bool:
        """Whether the filter may cut a part out of a document."""
        return False

    @property
    def title(self) -> str:
        """The name that messages, reports and samples use."""
        return self.name or self.filter


def _find_filters() -> dict[str, type[FilterConfig]]:
    """Every filter by its name in a recipe: the classes in corpus/filters/ whose key `filter` has one legal value.

    The modules are imported by name, because `recipe` may not import `corpus`. At their top they import nothing slow.
    """
    package = import_module("inheritune.corpus.filters")
    models = subclasses_in(package.__name__, package.__path__, FilterConfig)
    filters = {name: model for model in models if isinstance(name := model.model_fields["filter"].default, str)}
    return dict(sorted(filters.items(), key=lambda entry: (entry[1].compares_all, entry[0])))


FILTERS = _find_filters()
"""Every filter's model by its name in a recipe; those that compare all documents come last."""


def _as_mapping(entry: Any) -> Any:
    return as_named(entry, "filter", FILTERS, "filter")


def _in_order(filters: list[FilterConfig]) -> list[FilterConfig]:
    titles = [entry.title for entry in filters]
    kinds = [entry.filter for entry in filters if entry.compares_all]
    for name in titles:
        if titles.count(name) > 1:
            raise ValueError(f"{name} is in the list twice; give each its own `name`, or remove one")
    for name in kinds:
        if kinds.count(name) > 1:
            raise ValueError(f"{name} is in the list twice; remove one")
    for before, entry in itertools.pairwise(filters):
        if before.compares_all and not entry.compares_all:
            last = before.title
            raise ValueError(
                f"{entry.title} comes after {last}, which compares the documents that all others keep; put {last} last"
            )
    return filters


if TYPE_CHECKING:
    Filter = FilterConfig
else:
    Filter = Annotated[
        Annotated[Union[tuple(FILTERS.values())], Field(discriminator="filter")],  # noqa: UP007 (of a list)
        BeforeValidator(_as_mapping),
    ]
Filters = Annotated[list[Filter], AfterValidator(_in_order)]
"""A list of filters: those for one document in the order in which they are applied, then those that compare all."""
