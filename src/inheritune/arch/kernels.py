"""Attention by code of others: a config may name a kernel on the hub, which transformers would fetch and run."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inheritune.errors import Notice

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OWN = ("eager", "sdpa", "flex_attention")
"""Attention implementations of torch and transformers. The others are fetched where no package has them."""


def keep_own_attention(config: "PretrainedConfig", place: str) -> bool:
    """Let transformers choose the attention where `config`, or one inside it, names another than its own ways.

    Returns whether that was so, and warns of it (`Notice`). Changes `config`.
    """
    named = {str(one._attn_implementation) for one in _all(config) if one._attn_implementation not in (None, *_OWN)}
    for one in _all(config):
        if str(one._attn_implementation) in named:
            one._attn_implementation_internal = None
    if named:
        shown = ", ".join(sorted(map(repr, named)))
        text = (
            f"{place}: its config asks for the attention {shown}, which is code of others that transformers would fetch"
            " and run; it is ignored, and transformers' own is used; if you trust it, switch it on with"
            " trust_remote_code"
        )
        warnings.warn(text, Notice, stacklevel=2)
    return bool(named)


def _all(config: "PretrainedConfig") -> Iterator["PretrainedConfig"]:
    """A config and those inside it."""
    from transformers import PretrainedConfig

    yield config
    for inner in list(vars(config).values()):
        if isinstance(inner, PretrainedConfig):
            yield from _all(inner)
