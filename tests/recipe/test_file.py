import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import Suite, load_suite
from inheritune.experiment.folders import check_request
from inheritune.recipe import Recipe, Training, completed, dump_recipe, load_recipe
from inheritune.runlog import write_json

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(file for file in FOLDER.rglob("*.yaml") if not {"suites", "prompts"} & set(file.parts))


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_of_the_project_are_legal(path: Path) -> None:
    load_recipe(path)


def test_resolved_recipe_reads_back_as_itself(write_recipe: Any, text: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tiny_recipe(text)))
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe


def test_all_problems_at_once_each_with_its_line(write_recipe: Any, text: Path) -> None:
    tree = tiny_recipe(text)
    tree["train"] |= {"lenght": "3 steps", "micro_batch": -1, "optimizer": {"learning_rate": "fast"}}
    tree["sede"] = 4
    path = write_recipe(tree)
    found = problems(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(found) == 4
    for key in ("lenght", "micro_batch", "learning_rate", "sede"):
        line = next(number for number, content in enumerate(lines, 1) if content.strip().startswith(key))
        assert any(problem.startswith(f"{path}:{line}: ") and key in problem for problem in found), (key, found)


def test_unknown_key_offers_the_nearest(write_recipe: Any, text: Path) -> None:
    tree = tiny_recipe(text)
    tree["train"]["schedule"] = {"warmup": "3 steps"}
    assert "did you mean 'warm_up'?" in problems(write_recipe(tree))[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.length=8", "a size needs its unit"),
        ("train.length=0 steps", "above 0"),
        ("train.batch=3 tokens", "less than one sequence"),
        ("train.micro_batch=99", "more than the batch"),
        ("train.optimizer.learning_rate=-1", "greater than 0"),
        ("train.optimizer.learning_rate=.inf", "finite"),
        ("train.optimizer.betas=[0.9, 1.0]", "less than 1"),
        ("inherit.layers=0", "at least one block"),
        ("inherit.layers=1.5", "fraction of the blocks lies in"),
        ("inherit.layers=[3-1]", "reversed"),
        ("inherit.layers=[1, 1]", "rising order"),
        ("inherit.layers=[]", "the list is empty"),
        (
            "inherit.choose=best",
            "'first', 'last', 'middle', 'ends', 'every', 'stacked', 'auto', 'rank', 'influence' or 'loss'",
        ),
        ("inherit.submodules=[attention, heads]", "there is no 'heads'; legal are all, none, or a list of attention"),
        ("inherit.submodules=some", "there is no 'some'; legal are all"),
        ("inherit.submodules=[mlp, mlp]", "named twice"),
        ("inherit.submodules=[]", "legal are all, none"),
        ("inherit.width=half", "unknown key 'inherit.width'; half of everything is heads: 0.5, mlp: 0.5"),
        ("inherit.mlp=1.5", "a fraction lies in (0, 1]"),
        ("inherit.heads=0", "at least one is kept; legal are a number (1024)"),
        ("inherit.hidden=wide", "legal are a number (1024), a fraction (0.5), half"),
        ("grow.function_preserving=true", "function_preserving goes with start: trained"),
        ("grow.silent=true", "unknown key 'grow.silent'; it is called 'function_preserving' now"),
        ("grow.start=target", "'reference' or 'trained'"),
        ("data.validation=5 tokens", "are less than a sequence"),
        ("data.sources=[]", "give either sources"),
        ("data.tokens={train: [a.bin], validation: [b.bin]}", "give either sources"),
        ("data.tokens={train: [a.bin]}", "data.tokens.validation"),
        ("data={prepared: d, size: 9 tokens}", "size is for sources; remove it"),
        ("train.sampling=random", "'shuffled' or 'with replacement'"),
        ("train.attention=true", "'sequence' or 'document'"),
        ("data.sources=[{path: a, weight: 0}]", "greater than 0"),
        ("data.sources=[{path: a}, {path: a}]", "same name"),
        ("data={prepared: d, validation: 9 tokens}", "validation is for sources; remove it"),
        ("data={prepared: d, workers: 2}", "workers is for sources; remove it"),
        ("data=text", "data: got 'text': not a mapping; legal keys are sources, prepared"),
        ("data.sources=[{path: a, weight: 1}, {path: b}]", "every source a weight"),
        ("controls=[random, random]", "named twice"),
        ("evaluate.tolerance=-0.1", "greater than or equal to 0"),
        ("reference={}", "exactly one of them"),
        ("reference={path: a, train: {}}", "exactly one of them"),
        ("seed=one", "valid integer"),
        ("track=mlflow", "there is no 'mlflow'; legal are tensorboard, wandb, trackio, or a list of them"),
        ("track=[wandb, wandb]", "named twice"),
        ("track=3", "legal are tensorboard"),
        ("hardware.device=tpu", "'auto', 'cpu', 'cuda' or 'mps'"),
    ],
)
def test_wrong_values_name_key_value_and_what_is_legal(
    write_recipe: Any, text: Path, override: str, words: str
) -> None:
    found = problems(write_recipe(tiny_recipe(text)), override)
    assert len(found) == 1
    assert words in found[0]
    assert "\n" not in found[0]


def test_overrides_are_read_as_yaml_and_merged(write_recipe: Any, text: Path) -> None:
    path = write_recipe(tiny_recipe(text))
    recipe = load_recipe(path, ["--train.length=2 epochs", "--grow=null", "--inherit.layers=[0-1]", "--seed=7"])
    assert str(recipe.train.length) == "2 epochs"
    assert recipe.grow is None
    assert recipe.inherit.layers == [0, 1]
    assert recipe.seed == 7


def test_overrides_reach_into_lists(write_recipe: Any, text: Path) -> None:
    path = write_recipe(tiny_recipe(text))
    recipe = load_recipe(path, ["--data.sources.0.on_error=skip", "--data.sources.0.name=here"])
    assert (recipe.data.sources[0].on_error, recipe.data.sources[0].name) == ("skip", "here")
    assert "no entry 1 in a list of 1; entries are counted from 0" in problems(path, "--data.sources.1.name=x")[0]
    assert "no entry name in a list" in problems(path, "--data.sources.name=x")[0]
    assert "path has no keys" in problems(path, "--data.sources.0.path.x=1")[0]


def test_override_of_a_key_of_a_plain_reference(write_recipe: Any, text: Path) -> None:
    path = write_recipe(tiny_recipe(text, Path("some/model")))
    recipe = load_recipe(path, ["--reference.revision=abc"])
    assert (recipe.reference.path, recipe.reference.revision) == ("some/model", "abc")


def test_a_key_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nseed: 2\n", encoding="utf-8")
    assert problems(path) == [f"{path}:2: key 'seed' is there twice; keep one"]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"- 1\n", b"", b"just words"])
def test_files_that_are_no_recipes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert problems(path)[0].startswith(str(path))


def test_learning_rate_without_a_dot_is_a_number(write_recipe: Any, text: Path) -> None:
    # YAML 1.1 reads 3e-4 as a string; people write it all the same
    path = write_recipe(tiny_recipe(text))
    path.write_text(path.read_text(encoding="utf-8").replace("0.003", "3e-4"), encoding="utf-8")
    assert load_recipe(path).train.optimizer.learning_rate == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("wandb", ["wandb"]),
        ("[tensorboard, wandb]", ["tensorboard", "wandb"]),
        ("tensorboard, trackio", ["tensorboard", "trackio"]),
        ("null", []),
        ("[]", []),
    ],
)
def test_track_is_one_name_or_a_list(write_recipe: Any, text: Path, given: str, names: list[str]) -> None:
    assert load_recipe(write_recipe(tiny_recipe(text)), [f"track={given}"]).track == names


def test_length_in_every_unit(write_recipe: Any, text: Path) -> None:
    path = write_recipe(tiny_recipe(text))
    batch = 4 * 16
    assert load_recipe(path, ["train.length=7 steps"]).train.steps(1000) == 7
    assert load_recipe(path, [f"train.length={batch * 5 + batch // 2} tokens"]).train.steps(1000) == 5
    assert load_recipe(path, ["train.length=1.5 epochs"]).train.steps(10) == 3
    assert load_recipe(path, ["train.batch=70 tokens"]).train.batch_sequences == 4
    assert yaml.safe_load(dump_recipe(load_recipe(path)))["train"]["length"] == "10 steps"


@pytest.mark.parametrize(
    ("length", "sequences", "said"),
    [
        ("8K tokens", None, "8,000 tokens asked for; 7 whole steps of 1,024 are 7,168"),
        ("1.5 epochs", 21, "1,984 tokens (1.5 epochs) asked for; 1 whole step of 1,024 are 1,024"),
        ("1.5 epochs", None, None),  # nobody knows
        ("7168 tokens", None, None),
        ("2 epochs", 16, None),
        ("7 steps", None, None),
    ],
)
def test_what_whole_steps_make_of_a_length(length: str, sequences: int | None, said: str | None) -> None:
    settings = {"length": length, "batch": "16 sequences", "sequence_length": 64}
    assert Training.model_validate(settings).rounded_down(sequences) == said


def test_keys_of_a_base_hold_where_the_file_has_none(write_recipe: Any, text: Path, tmp_path: Path) -> None:
    write_recipe(tiny_recipe(text) | {"seed": 7}, "base.yaml")
    path = write_recipe({"base": "base.yaml", "train": {"length": "3 steps"}, "controls": []})
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.train.length.count, recipe.train.batch_sequences) == (7, 3, 4)
    assert recipe.controls == []
    assert problems(write_recipe({"base": "nowhere.yaml"})) == [
        f"{tmp_path / 'nowhere.yaml'}: no such recipe; give the path of a YAML file, or write one with `inheritune new`"
    ]
    assert "is a base, and has a base itself" in problems(write_recipe({"base": "recipe.yaml"}))[0]


def spelt(tree: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """`tree` with the key at the dotted place `old` called `new`."""
    *parents, last = old.split(".")
    node: Any = tree
    for parent in parents:
        node = node[int(parent) if isinstance(node, list) else parent]
    node[new] = node.pop(last)
    return tree


MISSPELT = [
    ("seed", "Seed", "seed"),
    ("seed", "random-seed", "seed"),
    ("seed", "int", None),
    ("train", "Train", "train"),
    ("train.micro_batch", "micro-batch", "micro_batch"),
    ("train.micro_batch", "MICRO_BATCH", "micro_batch"),
    ("train.optimizer.learning_rate", "learning-rate", "learning_rate"),
    ("train.optimizer.learning_rate", "(rate", None),
    ("data.sources.0.path", "Path", "path"),
    ("reference.path", "Path", "path"),
]


@pytest.mark.parametrize(("key", "written", "legal"), MISSPELT)
def test_a_misspelt_key_is_named_as_written_with_line_and_nearest(
    write_recipe: Any, text: Path, key: str, written: str, legal: str | None
) -> None:
    tree = tiny_recipe(text, Path("some/model"))
    tree |= {"seed": 3, "reference": {"path": "some/model"}}
    tree["train"]["micro_batch"] = 2
    path = write_recipe(spelt(tree, key, written))
    dotted = ".".join([*key.split(".")[:-1], written])
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(number for number, content in enumerate(lines, 1) if content.strip(" -").startswith(f"{written}:"))
    found = [problem for problem in problems(path) if "unknown key" in problem]
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{line}: unknown key '{dotted}'; ")
    assert legal is None or f"did you mean '{legal}'? legal keys are" in found[0]


@pytest.mark.parametrize(
    ("override", "written", "legal"),
    [
        ("--Seed=3", "Seed", "seed"),
        ("--random-seed=3", "random-seed", "seed"),
        ("--Train.length=3 steps", "Train", "train"),
        ("--train.micro-batch=2", "train.micro-batch", "micro_batch"),
        ("--train.optimizer.learning-rate=2", "train.optimizer.learning-rate", "learning_rate"),
        ("--learning-rate=2", "learning-rate", "train.optimizer.learning_rate"),
        ("--filters=[c4]", "filters", "data.filters"),
        ("--optimizer.name=muon", "optimizer", "train.optimizer"),
        ("--train.optimizer.lr=2", "train.optimizer.lr", "learning_rate"),
        ("--data.sources.0.On-Error=skip", "data.sources.0.On-Error", "on_error"),
    ],
)
def test_a_misspelt_key_on_the_command_line(
    write_recipe: Any, text: Path, override: str, written: str, legal: str
) -> None:
    found = problems(write_recipe(tiny_recipe(text)), override)
    assert found[0].startswith(f"command line: unknown key '{written}'; did you mean '{legal}'? legal keys are")


def test_a_misspelt_key_in_an_arm_and_in_a_base(write_recipe: Any, text: Path) -> None:
    tree = tiny_recipe(text)
    for key in ("inherit", "grow", "controls", "evaluate", "recovery"):
        tree.pop(key, None)
    arm = {"name": "first", "start": "inherit", "train": {"optimizer": {"Learning-Rate": 1}}}
    path = write_recipe(tree | {"arms": [arm]})
    with pytest.raises(InputError) as caught:
        load_suite(path)
    line = next(
        n for n, words in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "Learning-Rate" in words
    )
    said = str(caught.value)
    assert said.startswith(f"{path}:{line}: ")
    assert "unknown key 'optimizer.Learning-Rate'; did you mean 'learning_rate'?" in said
    base = write_recipe(tiny_recipe(text) | {"Seed": 1}, "base.yaml")
    line = next(n for n, words in enumerate(base.read_text(encoding="utf-8").splitlines(), 1) if "Seed" in words)
    found = problems(write_recipe({"base": "base.yaml"}))
    assert found[0].startswith(f"{base}:{line}: unknown key 'Seed'; did you mean 'seed'?")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: true", ":1: seed: got True: not a number; give a number"),
        ("seed: 2024-01-01", ":1: seed: got '2024-01-01': input should be a valid integer"),
        ("seed: 2024-13-45", ":1: seed: got '2024-13-45': input should be a valid integer"),
        ("seed: !!timestamp 2024-13-45", ":1: not YAML: no value of its tag (ValueError: month must be in 1..12)"),
        ("seed: !!int one", ":1: not YAML: no value of its tag (ValueError: invalid literal"),
        ("seed: !!bool one", ":1: not YAML: no value of its tag (KeyError: 'one')"),
        ("!!map [seed]", "not YAML: a value that its tag does not fit"),
        ("seed: 0x" + "f" * 5000, ":1: not YAML: a number of so many digits"),
        (
            "train: {length: 1 steps, batch: 1T sequences}",
            ":1: train: batch: 1T sequences is 1,000,000,000,000 sequences; give at most",
        ),
        (
            "train: {length: 1 steps, batch: 1T tokens, sequence_length: 16}",
            ":1: train: batch: 1T tokens is 62,500,000,000 sequences",
        ),
        ("train: {length: 1 steps, batch: 2 sequences, optimizer: {name: [adamw]}}", "got ['adamw']; legal are adamw"),
        ("2024-13-45: 1", ":1: unknown key '2024-13-45'"),
        ("on: 1", ":1: unknown key 'on'"),
        ("? [a]\n: 1", ":1: not YAML: a key is a list or a mapping"),
        ("train: &all {optimizer: *all}", ":1: the alias *all is inside what it names; write it out"),
        ("seed: " + "[" * 3000, ":1: more than 50 levels of mappings and lists; write it flatter"),
        ('data: {sources: [{path: "a\\0b"}]}', ":1: data.sources.0.path: got 'a\\x00b': a NUL character in it"),
        ("train: {length: " + "9" * 400 + " tokens}", "a size must be at most 1e+18"),
        ("train: {optimizer: {betas: [true, 0.9]}}", "train.optimizer.betas.0: got True: not a number"),
        ("hardware: {threads: 1000000000}", ":1: hardware.threads: got 1000000000: input should be less than or equal"),
    ],
)
def test_values_that_only_yaml_can_give(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content + "\n", encoding="utf-8")
    found = problems(path)
    assert any(problem.startswith(str(path)) and words in problem for problem in found), found


def test_an_alias_and_a_merge_are_read_and_their_keys_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("train: &own\n  lenght: 1 steps\ninherit:\n  <<: *own\n", encoding="utf-8")
    found = problems(path)
    assert f"{path}:2: unknown key 'train.lenght'; did you mean 'length'?" in "\n".join(found)
    assert f"{path}:2: unknown key 'inherit.lenght'" in "\n".join(found)


def test_a_seed_that_refers_to_itself_on_the_command_line(write_recipe: Any, text: Path) -> None:
    found = problems(write_recipe(tiny_recipe(text)), "--seed=&a [*a]")
    assert found == ["command line:1: the alias *a is inside what it names; write it out"]


def test_random_keys_and_values_are_never_a_fault(tmp_path: Path) -> None:
    drawn, words = (
        random.Random(0),
        ["true", "2024-13-45", "9" * 400, "1e999", "[]", "{a: b}", "[[1]]", "~", '"\\0"', ".nan"],
    )
    keys = [key for model in (Recipe, Suite) for key in dotted_keys(model)]
    change = [str.upper, str.title, lambda key: key.replace("_", "-"), lambda key: f"{key}[0]", lambda key: key]
    path = tmp_path / "recipe.yaml"
    for _ in range(300):
        key = ".".join(drawn.choice(change)(part) for part in drawn.choice(keys).split("."))
        path.write_text("train: {length: 1 steps}\n", encoding="utf-8")
        for load in (load_recipe, load_suite):
            with pytest.raises(InputError):
                load(path, [f"--{key}={drawn.choice(words)}"])


def dotted_keys(model: Any, at: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(f"{at}{name}")
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            found += dotted_keys(inner, f"{at}{name}.")
    return found


def test_what_an_earlier_version_saved_is_read_under_the_names_of_today(
    write_recipe: Any, text: Path, tmp_path: Path
) -> None:
    tree = tiny_recipe(text) | {"grow": {"start": "trained", "function_preserving": True}}
    recipe = load_recipe(write_recipe(tree))
    old, saved = yaml.safe_load(dump_recipe(recipe)), tmp_path / "saved.yaml"
    old["grow"]["silent"] = old["grow"].pop("function_preserving")
    saved.write_text(yaml.safe_dump(old), encoding="utf-8")
    assert load_recipe(saved, saved=True) == recipe
    assert completed(Recipe, old) == yaml.safe_load(dump_recipe(recipe))
    with pytest.raises(InputError, match=r"unknown key 'grow\.silent'; it is called 'function_preserving' now"):
        load_recipe(saved)
    write_json(tmp_path / "out" / "request.json", {"rounds": {"by": 2, "silent": True}})
    check_request(tmp_path / "out", {"rounds": {"by": 2, "function_preserving": True}})
    with pytest.raises(InputError, match="belongs to another training"):
        check_request(tmp_path / "out", {"rounds": {"by": 2, "function_preserving": False}})
