"""Recipes and suites with keys and values that are wrong, or right and odd, through the file and the command line."""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from tests.attack.material import recipe_tree, suite_tree
from tests.attack.worker import Case

if TYPE_CHECKING:
    from tests.attack.inputs import Tables

# Values as YAML writes them.
VALUES = (
    "null", "~", "", "true", "yes", "off", "0", "-0", "1", "-1", "3", "7", "1000000", "2147483648", "9223372036854775808", "9" * 60, "-" + "9" * 60, "0.0", "0.5", "1.5", "-0.5",
    "1e-300", "1e300", "1e400", ".nan", ".inf", "-.inf", "nan", "inf", "1e3", "0x1f", "0o17", "0b1", "1_000", "190:20:30", "'1'", "''", "' '", "x", "'x y'", "\"a\\nb\"",
    "\"\\0\"", "\"\\x1b[31m\"", "\"\\u202e\"", "\"\\ud800\"", "é", "中文", "١٢٣", "😀", "[]", "[1]", "[null]", "[[]]", "[1, 2, 3]", "[x, x]", "[0.9, 0.95]", "[.nan, 1]", "[true]", "{}", "{a: 1}",
    "{1: 2}", "{null: null}", "{a: {b: {c: 1}}}", "[{a: 1}]", "2024-01-01", "2024-01-01T00:00:00Z", "!!binary aGk=", "!!set {a}", "!!str 5", "!!int '5'", "!!float x", "!x y", "&a [*a]",
    "1 tokens", "5 steps", "2 epochs", "10 minutes", "4 sequences", "50%", "0 steps", "-3 steps", "1e3 tokens", "1.5 tokens", "99T tokens", "9999999T steps", "1 parsecs", "tokens", "1 %", "200%", "0.0000001%", "2 GB", "80M parameters",
    "auto", "none", "all", "half", "cosine", "adamw", "muon", "fsdp", "float8", "bfloat16", "random", "loss", "first", "x: y", "a, b", "../..", "/", "/dev/zero", "'*'", "'['", "http://127.0.0.1:9/x",
    "file", "record", "utf-7", "x" * 3000, "x" * 100_000, "[" * 40 + "]" * 40,
)  # fmt: skip

# What a part needs that the recipe does not have.
PARTS: dict[str, Any] = {
    "data.slurm": {"executor": "slurm", "slurm": {"partition": "a", "time": "1:00:00"}},
    "reference.train": {"path": None, "train": {
        "model": {"model_type": "gpt2", "n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 32}, "tokenizer": {"vocabulary": 300}, "length": "2 steps"}},
    "reference.train.optimizer": {"path": None, "train": {
        "model": {"model_type": "gpt2", "n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 32}, "tokenizer": {"vocabulary": 300}, "optimizer": {}, "schedule": {}}},
}  # fmt: skip


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))


def _constants(model: type[BaseModel]) -> dict[str, Any]:
    """What tells a mapping from the others that may stand there."""
    return {
        name: field.default for name, field in model.model_fields.items()
        if get_origin(field.annotation) is not None and len(get_args(field.annotation)) == 1 and isinstance(field.default, str)
    }  # fmt: skip


def places(model: type[BaseModel], at: tuple[Any, ...] = (), made: tuple[tuple[tuple[Any, ...], Any], ...] = ()) -> Iterator[tuple[tuple[Any, ...], tuple[tuple[tuple[Any, ...], Any], ...]]]:  # fmt: skip
    """Every key below a model, with the parts that have to be made for it to be there: their places and values."""
    for name, field in model.model_fields.items():
        here = (*at, name)
        yield here, made
        inner = _models(field.annotation)
        for one in inner:
            if _is_list(field.annotation):
                entry = _constants(one) if len(inner) > 1 else {}
                # an arm or a source that is there is used; a filter is made
                yield from places(one, (*here, 0), (*made, ((here), [entry])) if entry else made)
            else:
                yield from places(one, here, (*made, (here, _constants(one))) if len(inner) > 1 else made)


@cache
def _places(suite: bool) -> tuple[tuple[tuple[Any, ...], Any], ...]:
    from inheritune.experiment.suite import Suite
    from inheritune.recipe import Recipe

    return tuple(places(Suite if suite else Recipe))


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        if isinstance(key, int):
            tree = tree[key]
        else:
            if not isinstance(tree.get(key), dict | list):
                tree[key] = {"path": tree[key]} if isinstance(tree.get(key), str) and key == "reference" else {}
            tree = tree[key]
    if value is _GONE:
        tree.pop(path[-1], None)
    else:
        tree[path[-1]] = value


_GONE = object()


def _mutations(key: str) -> dict[str, str]:
    """The key as a hand may write it wrongly."""
    return {
        "upper": key.upper(), "dashes": key.replace("_", "-") + "-", "typo": key[1::-1] + key[2:] + "e", "number": "0", "dotted": f"{key}.x", "blank": f"{key} x", "empty": "",
        "twice": key + key, "unicode": key + "\u0301", "escape": key + "\x1b[1m", "private": "_" + key, "dunder": f"__{key}__", "long": key * 500, "model_fields": "model_fields", "NUL": key + "\0",
    }  # fmt: skip


def _base(tables: "Tables", suite: bool, path: tuple[Any, ...], made: Any) -> dict[str, Any]:
    tree = (suite_tree if suite else recipe_tree)(tables.places["text"], tables.places["model"])
    dotted = ".".join(map(str, path))
    for part in sorted(PARTS):
        if dotted.startswith(part + ".") or dotted == part:
            section = part.split(".")[0]
            tree[section] = {**(tree[section] if isinstance(tree[section], dict) else {}), **PARTS[part]}
    if dotted.startswith("data.tokens"):
        tree["data"] = {"tokens": {"train": ["a.bin"], "validation": ["b.bin"]}}
    if dotted.startswith("grow."):
        tree["grow"] = {"by": 1, "max_layers": 2}
    if dotted.startswith("published"):
        tree["published"] = {"source": "x", "values": {"random": 2.5}}
    for place, value in made:
        if isinstance(value, list) and place[-1] == "arms":
            continue
        _put(tree, place, [dict(entry) for entry in value] if isinstance(value, list) else dict(value))
    return tree


def cases(tables: "Tables") -> Iterator[Case]:
    """Each key with some of the values, and some wrong keys in its place."""
    for suite in (False, True):
        kind = "suite" if suite else "recipe"
        yield Case(
            f"recipe keys: {kind}: control",
            ("plan", "own.yaml", "--device", "A100"),
            _written(_base(tables, suite, (), ())),
            (0,),
        )
        for path, made in _places(suite):
            dotted = ".".join(map(str, path))
            title = f"recipe keys: {kind}: {dotted}{''.join(sorted(str(value) for _, value in made))}"
            tree = _base(tables, suite, path, made)
            draw = tables.draw(title)
            for number in sorted(draw.sample(range(len(VALUES)), 4)):
                yield _of_value(f"{title}: value {number}", suite, tree, path, VALUES[number], draw)
            for name, key in draw.sample(sorted(_mutations(str(path[-1])).items()), 1):
                yield _of_key(f"{title}: key {name}", suite, tree, path, key, draw)
            if path[-1] in (
                "reference",
                "data",
                "train",
                "arms",
                "length",
                "name",
                "path",
                "model",
                "tokenizer",
                "vocabulary",
            ):
                yield Case(
                    f"{title}: gone",
                    ("plan", "own.yaml"),
                    _written(tree, path),
                    (0, 2),
                    says=(str(path[-1]) + "|reference|data",),
                )


def _command(suite: bool, draw: random.Random) -> tuple[str, ...]:
    if suite:
        return draw.choice([("plan", "own.yaml", "--device", "A100"), ("plan", "own.yaml", "--json")])
    return draw.choice(
        [("plan", "own.yaml", "--device", "A100"), ("plan", "own.yaml", "--json"), ("run", "own.yaml", "--dry-run")]
    )


def _of_value(title: str, suite: bool, tree: Any, path: tuple[Any, ...], value: str, draw: random.Random) -> Case:
    words = _command(suite, draw)
    key = str(path[-1])
    shown = value.strip(" '")[:20] or key
    says = (f"{key}|{path[-2] if len(path) > 1 else key}|own.yaml|data|positions|memory|no such|UTF-8|alias|{shown}",)
    if draw.random() < 0.4:
        dotted = ".".join(map(str, path))
        try:
            raw = yaml.safe_load(f'"{value[1:-1]}"') if value.startswith('"') else value
        except yaml.YAMLError:
            raw = value
        raw = raw.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") if isinstance(raw, str) else value
        return Case(f"{title}: --{dotted}", (*words, f"--{dotted}={raw}"), _written(tree), (0, 2), says)
    return Case(title, words, _written(tree, path, value), (0, 2), says)


def _of_key(title: str, suite: bool, tree: Any, path: tuple[Any, ...], key: str, draw: random.Random) -> Case:
    words = _command(suite, draw)
    free = {"model", "train", "top_n_grams", "duplicate_n_grams", "values", "sbatch"}
    says = (f"unknown key|override|own.yaml|no such option|NUL|no entry|{path[-1]}",)
    if draw.random() < 0.4:
        dotted = ".".join(map(str, (*path[:-1], key)))
        return Case(
            f"{title}: --",
            (*words, f"--{dotted}=1"),
            _written(tree),
            (0, 2) if free & set(map(str, path)) else (2,),
            says,
        )
    return Case(
        title, words, _written(tree, (*path[:-1], key), "1"), (0, 2) if free & set(map(str, path)) else (2,), says
    )


def _written(tree: Any, path: tuple[Any, ...] | None = None, value: str | None = None) -> Any:
    """Writes the recipe; with a place, a value there as it is written, or the key left out."""

    def write(folder: Path) -> None:
        import copy

        own, mark = copy.deepcopy(tree), "PUT-IT-HERE"
        if path is not None:
            _put(own, path, _GONE if value is None else mark)
        text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True, width=10**6)
        (folder / "own.yaml").write_text(text.replace(mark, value or ""), encoding="utf-8", errors="surrogatepass")

    return write
