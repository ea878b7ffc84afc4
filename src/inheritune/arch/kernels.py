"""Third-party attention and experts: a config may name kernels on the hub, which transformers would fetch and run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OWN = {
    "attention": ("_attn_implementation", (None, "eager", "sdpa", "flex_attention")),
    "experts": ("_experts_implementation", (None, "eager", "grouped_mm", "batched_mm")),
}
"""Implementations that come with torch and transformers. Others are fetched where no package has them."""


def keep_own_code(config: "PretrainedConfig", place: str) -> bool:
    """Reset third-party attention and experts in `config`, and in configs inside it, to transformers' own choice.

    Returns whether there were any, with a warning. Changes `config`.
    """
    replaced = False
    for what, (field, own) in _OWN.items():
        others = [one for one in _all(config) if getattr(one, field, None) not in own]
        named = sorted({repr(getattr(one, field)) for one in others})
        for one in others:
            setattr(one, f"{field}_internal", None)
        if named:
            text = (
                f"{place}: its config asks for the {what} {', '.join(named)}, which is code of others that"
                " transformers would fetch and run; it is ignored, and transformers' own is used; if you trust it,"
                " switch it on with trust_remote_code"
            )
            logger.warning(text)
            replaced = True
    return replaced


def _all(config: "PretrainedConfig") -> Iterator["PretrainedConfig"]:
    """A config and those inside it."""
    from transformers import PretrainedConfig

    yield config
    for inner in list(vars(config).values()):
        if isinstance(inner, PretrainedConfig):
            yield from _all(inner)
