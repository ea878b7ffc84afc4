"""The same prompts, continued by all models."""

import re

from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown, prefix

PLACE = 80


def section(shown: Shown) -> Section:
    """The prompts of all runs."""
    continued: dict[str, list[tuple[str, str]]] = {}
    tokens, are_messages = set(), set()
    for label, run in shown.every(RunFolder):
        if run.samples is None:
            continue
        tokens.add(run.samples.new_tokens)
        are_messages.add(run.samples.as_messages)
        for place, prompt in enumerate(run.samples.prompts):
            for model in run.samples.models:
                text = _shortened(model.continuations[place])
                continued.setdefault(prompt, []).append((prefix(label) + model.name, text))
    most = " or ".join(map(str, sorted(tokens)))
    about = (
        f"Each continues with the likeliest token each time (greedily), for at most {most} tokens." if continued else ""
    )
    if True in are_messages:
        only = "" if len(are_messages) == 1 else " of some runs"
        about += f" The prompts{only} are users' messages in the models' chat template."
    return Section("The same prompts, continued", about, samples=list(continued.items()))


def _shortened(text: str) -> str:
    """`text` with long runs of line breaks, which small models often write, replaced by their number."""
    return re.sub(r"\n{4,}", lambda match: f"\n[{len(match[0])} line breaks]\n", text)
