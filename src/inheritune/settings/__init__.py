"""What all settings of users have in common: checked parts, sizes with units, components in one file each."""

from inheritune.settings.components import subclasses_in
from inheritune.settings.part import Part, Unfit
from inheritune.settings.size import Size, parse_size
