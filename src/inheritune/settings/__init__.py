"""What all settings that a user writes have in common: checked parts, sizes with units, and components in one file each."""

from inheritune.settings.components import subclasses_in
from inheritune.settings.part import Part, Unfit
from inheritune.settings.size import Size, parse_size

__all__ = ["Part", "Size", "Unfit", "parse_size", "subclasses_in"]
