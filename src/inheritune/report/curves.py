"""Loss curves, over what was spent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inheritune.report.figures import COLOURS, INK, Picture, draw, dress, show_values, stretch

AXES = ("steps", "tokens", "flops")
"""What curves are drawn over: all stages of a training counted."""

_LABELS = {"steps": "optimizer steps", "tokens": "tokens trained on", "flops": "training FLOPs"}
_SHOWN = {"steps": "steps", "tokens": "tokens", "flops": "FLOPs"}
_STYLES = ("-", "--", "-.", ":")

Points = list[dict[str, float]]
"""Each has `val_loss` and those of AXES that are known."""


@dataclass(frozen=True)
class Curve:
    """A training's validation losses on the way."""

    name: str
    points: Points
    role: str = "arm"
    """"reference" and "control" are drawn so that they are told apart."""


@dataclass(frozen=True)
class Curves:
    """What is drawn together; `levels` are lines across: a reference's final loss by its name."""

    curves: list[Curve] = field(default_factory=list)
    levels: dict[str, float] = field(default_factory=dict)

    def over(self, axis: str) -> list[Curve]:
        """The curves of which this axis is known."""
        found = [Curve(c.name, [p for p in c.points if axis in p], c.role) for c in self.curves]
        return [curve for curve in found if curve.points]

    def missing(self) -> list[str]:
        """What is not there yet, in sentences."""
        if not self.curves:
            return ["No validation loss was taken yet."]
        partly = [c.name for c in self.curves if any("flops" not in point for point in c.points)]
        return [f"By FLOPs without {', '.join(partly)}: they are counted when a training ends."] if partly else []


def merged(parts: Sequence[Curves]) -> Curves:
    """All of them together."""
    levels = {name: level for part in parts for name, level in part.levels.items()}
    return Curves([curve for part in parts for curve in part.curves], levels)


def draw_curves(found: Curves, axis: str) -> Picture | None:
    """The curves over one of AXES; None where there is none."""
    curves = found.over(axis)
    if not curves:
        return None
    rows = len(curves) + len(found.levels)
    says = f"validation loss during training, by {_SHOWN[axis]}"
    return draw(f"loss-by-{axis}", says, lambda figure, axes: _fill(figure, axes, curves, found.levels, axis),
                (5, 3.4 + 0.2 * rows), font=10.5)  # fmt: skip


def by_axis(found: Curves) -> list[tuple[str, Picture]]:
    """(axis in words, figure) for each axis, tokens first."""
    drawn = [(_SHOWN[axis], draw_curves(found, axis)) for axis in ("tokens", "steps", "flops")]
    return [(name, picture) for name, picture in drawn if picture is not None]


def _fill(figure: Any, axes: Any, curves: Sequence[Curve], levels: dict[str, float], axis: str) -> None:
    from matplotlib.ticker import FuncFormatter

    handles, others = [], [curve for curve in curves if curve.role != "reference"]
    for place, (name, level) in enumerate(levels.items()):
        style = _STYLES[1 + place % 3]
        handles.append(axes.axhline(level, color=INK, linestyle=style, linewidth=1.2, label=name))
    for curve in curves:
        number = others.index(curve) if curve in others else None
        xs, ys = [point[axis] for point in curve.points], [point["val_loss"] for point in curve.points]
        handles += axes.plot(
            xs, ys, label=curve.name, color=INK if number is None else COLOURS[number % len(COLOURS)],
            linestyle=":" if curve.role == "control" else _STYLES[(number or 0) // len(COLOURS) % 3],
            linewidth=1.4 if number is None else 2,
            marker="o" if len(xs) == 1 else "",
        )  # fmt: skip
    losses = [point["val_loss"] for curve in curves for point in curve.points]
    stretch(axes, [*levels.values(), *losses])  # untrained it begins far above
    for curve in curves:
        texts = [
            f"{curve.name}\n{_amount(point[axis])} {_SHOWN[axis]}: {point['val_loss']:.4f}" for point in curve.points
        ]
        xs, ys = [point[axis] for point in curve.points], [point["val_loss"] for point in curve.points]
        show_values(axes, xs, ys, texts, len(curves))
    axes.set_xlabel(_LABELS[axis])
    axes.set_ylabel("validation loss (nats a token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    dress(axes)
    names = [handle.get_label() for handle in handles]
    figure.legend(handles, names, loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5)


def _amount(value: float) -> str:
    if value >= 1e13:
        return f"{value:.3g}"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:.4g}"
