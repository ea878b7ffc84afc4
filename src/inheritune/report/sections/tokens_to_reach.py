"""How many training tokens the arms of a comparison needed for given losses, which needs no arm to be measured by."""

from inheritune.report.comparison import ComparisonFolder
from inheritune.report.curves import Curve, noise, tokens_to_reach
from inheritune.report.notation import short
from inheritune.report.page import Section, Table
from inheritune.report.shown import Shown

PLACE = 32
_LEVELS = 5


def section(shown: Shown) -> Section:
    """A row for each arm and a column for each loss, from the worst arm's final one down to the best's."""
    title, found = "Tokens to reach a validation loss", shown.only(ComparisonFolder)
    curves = [] if found is None else [one for one in found.curves().curves if len(one.points) > 1]
    finals = sorted((one.points[-1]["val_loss"] for one in curves if one.role != "reference"), reverse=True)
    if len(finals) < 2 or finals[0] == finals[-1]:
        return Section(title)
    worst, best = finals[0], finals[-1]
    levels = [worst + (best - worst) * number / (_LEVELS - 1) for number in range(_LEVELS)]
    columns = {f"{level:.3f}": level for level in levels}
    rows = [{"arm": one.name} | {name: _cell(one, level) for name, level in columns.items()} for one in curves]
    note = (
        "Read off the curves; in brackets what their noise allows. start: the arm has this loss before its first step."
        " Empty: it never has it."
    )
    return Section(title, tables=[("", Table.of(["arm", *columns], rows))], notes=[note])


def _cell(curve: Curve, loss: float) -> str:
    doubt = noise(curve.points)
    middle, least, most = (tokens_to_reach(curve.points, loss + shift) for shift in (0, doubt, -doubt))
    if middle is None or least is None:
        return ""
    if most is None:
        return f"{_amount(middle)} ({_amount(least)} or later)"
    words = [_amount(tokens) for tokens in (middle, least, most)]
    return words[0] if len(set(words)) == 1 else f"{words[0]} ({words[1]}-{words[2]})"


def _amount(tokens: float) -> str:
    return short(round(tokens)) if tokens else "start"
