"""Experts that routers choose from: which selections of them a config can express."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from inheritune.arch.families import title
from inheritune.arch.selection import Runs, length
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts",
)  # fmt: skip
_GROUPS, _CHOSEN_GROUPS = ("n_group", "num_expert_group"), "topk_group"
_LEAST_OF_A_GROUP = 2  # the score of a group is the sum of its two best experts'
_LISTED = re.compile(r"(?P<list>.*\bexperts)\.(?P<number>\d+)\.(?P<rest>.+)")


def group_count(numbers: Mapping[tuple[str | int, ...], int]) -> int:
    """How many groups of experts a config with these whole numbers has; 1 where they are not in groups."""
    return max((value for path, value in numbers.items() if path[-1] in _GROUPS), default=1)


def kept_groups(
    config: "PretrainedConfig", total: int, kept: Runs, numbers: Mapping[tuple[str | int, ...], int]
) -> dict[tuple[str | int, ...], int]:
    """The fields of a config with its number of groups of experts, and how many groups the experts `kept` make.

    `numbers` are all whole numbers in the config, by their place. Empty where experts are not in groups.

    Raises InputError for fewer experts than a token is sent to, and for groups that a router cannot choose from.
    """
    by_name = {str(path[-1]): (path, value) for path, value in numbers.items()}
    count = length(kept)
    for name in (name for name in _PER_TOKEN if name in by_name):
        if count < by_name[name][1]:
            what = f"{count} experts are selected, and each token is sent to {by_name[name][1]} ({name})"
            raise InputError(title(config), what, f"select {by_name[name][1]} to {total} experts")
    field = next((name for name in _GROUPS if by_name.get(name, ((), 0))[1] > 1), None)
    if field is None or count == total:
        return {}
    path, groups = by_name[field]
    size = total // groups
    members = [
        sum(start <= e < stop for start, stop in kept for e in range(g * size, (g + 1) * size)) for g in range(groups)
    ]
    left = [number for number in members if number]
    least = by_name.get(_CHOSEN_GROUPS, (path, 1))[1]
    if len(set(left)) != 1 or len(left) < least or left[0] < _LEAST_OF_A_GROUP:
        what = f"of its {groups} groups of {size} experts, {', '.join(map(str, members))} are selected"
        remedy = (
            f"select equally many of each group ({_LEAST_OF_A_GROUP} to {size}), in at least {least} groups"
            f" ({_CHOSEN_GROUPS}); the other groups may go"
        )
        raise InputError(title(config), what, remedy)
    most = least * left[0]
    for name in (name for name in _PER_TOKEN if name in by_name):
        if most < by_name[name][1]:
            what = f"{least} groups of {left[0]} experts are chosen for a token, which is sent to {by_name[name][1]}"
            raise InputError(
                title(config), what, f"keep at least {-(-by_name[name][1] // least)} experts of each group"
            )
    return {path: len(left)}


def listed_experts(names: Iterable[str], total: int) -> dict[str, tuple[str, int, str]]:
    """Tensors of experts that are modules in a list: name to the list's name, the expert's number and the rest."""
    parts = {name: match for name in names if (match := _LISTED.fullmatch(name)) is not None}
    numbers: dict[str, set[int]] = {}
    for match in parts.values():
        numbers.setdefault(match["list"], set()).add(int(match["number"]))
    return {
        name: (match["list"], int(match["number"]), match["rest"])
        for name, match in parts.items()
        if numbers[match["list"]] == set(range(total))
    }
