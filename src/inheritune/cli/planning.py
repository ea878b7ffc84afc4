"""The command that prices a recipe or a suite before anything is spent."""

import gc
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune import experiment
from inheritune import recipe as recipes
from inheritune.cli.options import Json, overrides, print_result
from inheritune.cli.plan_tables import show_costs
from inheritune.errors import InputError
from inheritune.planner import choose_devices, measured_device, remembered_rate

_BYTES = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_HOURS = {"m": 1 / 60, "min": 1 / 60, "minutes": 1 / 60, "h": 1, "hours": 1, "d": 24, "days": 24}


def plan(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE_OR_SUITE", help="A recipe or a suite, a YAML file.")],
    device: Annotated[
        list[str] | None, typer.Option(help="A device of the table, e.g. A100; repeatable. Default: all.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many devices of a kind work together.", min=1)] = 1,
    price: Annotated[
        list[str] | None, typer.Option(help="What a device costs, e.g. A100=1.29 (dollars an hour); repeatable.")
    ] = None,
    rate: Annotated[
        Path | None,
        typer.Option(help="Figures that `inheritune bench --out FILE` measured, as one more device."),
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="A device's memory, e.g. 24GB: which blocks and micro-batches fit.")
    ] = None,
    within: Annotated[str | None, typer.Option(help="A time, e.g. 12h: how many tokens fit into it.")] = None,
    as_json: Json = False,
) -> None:
    """Price a recipe or a suite before anything is spent: parameters, FLOPs, memory, disk, hours; what cannot run."""
    memory = None if fit is None else _amount("--fit", fit, _BYTES, "24GB")
    hours = None if within is None else _amount("--within", within, _HOURS, "12h")
    collects = gc.isenabled()
    gc.disable()  # collecting takes a fifth of a process that mostly imports, and ends at once
    try:
        costs = _priced(recipe, overrides(context.args), device, price, rate, (gpus, memory, hours))
    finally:
        if collects:
            gc.enable()
    print_result(costs, as_json, lambda: show_costs(costs, str(recipe)))


def _priced(
    file: Path, words: list[str], device: list[str] | None, price: list[str] | None, rate: Path | None,
    bounds: tuple[int, float | None, float | None],
) -> dict[str, Any]:  # fmt: skip
    """The plan of a recipe or of a suite, whichever the file is."""
    loaded = experiment.load_suite(file, words) if recipes.is_suite(file) else recipes.load_recipe(file, words)
    devices = choose_devices(device or (), dict(_price(word) for word in price or ()))
    shape = None
    here = remembered_rate() if rate is None and not device else None
    if rate is not None:
        measured, shape = measured_device(rate)
        devices.append(measured)
    elif here is not None:
        devices.append(here.device)
    together, memory, hours = bounds
    if isinstance(loaded, recipes.Recipe):
        costs = experiment.plan_recipe(loaded, devices, together=together, memory=memory, hours=hours)
    else:
        costs = experiment.plan_suite(loaded, devices, together=together, memory=memory, hours=hours)
    if shape is not None:
        costs["warnings"].append(
            f"The measured rate is that of the shape {shape['shape']} in {shape['precision']},"
            f" {shape['flops_per_token'] / 1e9:.4g} GFLOP a token; it is taken over by FLOPs. Another shape, precision"
            " or micro-batch reaches another share of the machine: measure this one with"
            " `inheritune bench --recipe RECIPE --out FILE`."
        )
    if here is not None:
        costs["warnings"].append(
            f"The rate of '{here.device.name}' is that of the last dry run on this machine ({here.of}, {here.date}); it"
            " is taken over by FLOPs. Another model, precision or micro-batch has another rate, which"
            " `inheritune run RECIPE --dry-run` measures."
        )
    return costs


def _amount(option: str, text: str, units: dict[str, float], example: str) -> float:
    """A number with its unit. Raises InputError with what is legal."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    known = {unit.lower(): factor for unit, factor in units.items()}
    if match is None or match[2].lower() not in known or float(match[1]) == 0:
        legal = ", ".join(units)
        raise InputError("command line", f"{option} {text!r} is no amount", f"give one such as {example} ({legal})")
    return float(match[1]) * known[match[2].lower()]


def _price(word: str) -> tuple[str, float]:
    name, equals, amount = word.rpartition("=")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if not equals or not 0 <= value < float("inf"):
        raise InputError(
            "command line", f"--price {word!r} is no price", "give one such as A100=1.29 (dollars an hour)"
        )
    return name, value
