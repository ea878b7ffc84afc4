"""In which order arms are trained: behind those whose results they need."""

from collections.abc import Sequence

from inheritune.errors import InputError
from inheritune.recipe import ArmSettings


def needs(arm: ArmSettings, names: Sequence[str]) -> list[str]:
    """The arms among `names` whose results this one needs: what its weights come from, and its teacher."""
    wanted: list[str | None] = [getattr(arm.start, "of", None), arm.teacher]
    return list(dict.fromkeys(name for name in wanted if name is not None and name in names))


def in_order(arms: Sequence[ArmSettings]) -> list[ArmSettings]:
    """The arms, each behind those that it needs, else as they stand. Raises InputError that names arms in a circle."""
    by_name = {arm.name: arm for arm in arms}
    found: dict[str, ArmSettings] = {}

    def place(arm: ArmSettings, above: tuple[str, ...]) -> None:
        if arm.name in above:
            circle = " needs ".join((*above[above.index(arm.name) :], arm.name))
            raise InputError(f"arm {arm.name}", f"needs its own result: {circle}", "let one of them begin elsewhere")
        for name in needs(arm, list(by_name)):
            place(by_name[name], (*above, arm.name))
        found.setdefault(arm.name, arm)

    for arm in arms:
        place(arm, ())
    return list(found.values())
