"""What `plan` prices is what `run` and `compare` do."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from conftest import read_json, tiny_recipe
from inheritune import compare
from inheritune.cli import main
from inheritune.corpus import prepare
from inheritune.errors import InputError
from inheritune.experiment import Suite, load_suite, plan_recipe, plan_suite, run
from inheritune.planner import choose_devices
from inheritune.recipe import Data, Recipe
from inheritune.results import JudgedArm
from tiny_suites import make_reference, tiny_suite, without_models

SUITES = Path(__file__).parents[2] / "recipes" / "suites"
ARMS: list[dict[str, Any]] = [
    {"name": "random", "start": "random"},
    {"name": "inherit", "start": {"kind": "inherit", "layers": [0, 2, 5], "submodules": ["attention"]}},
    {"name": "stacking", "start": {"kind": "stacking", "layers": 4}},
    {"name": "stacked", "start": {"kind": "stacking", "layers": 6, "of": "random"}, "allow_unequal": "both trainings"},
    {"name": "half width", "start": "half-width"},
    {"name": "taught", "start": "inherit", "train": {"distillation": {"outputs": "online"}}},
    {"name": "taught by inherit", "start": "lazy", "teacher": "inherit",
     "train": {"distillation": {"outputs": "stored", "top_k": 8}}},
    {"name": "grown", "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 2, "until": "max_layers"}},
     "allow_unequal": "rounds"},
    {"name": "by states", "start": "inherit", "train": {"distillation": {"outputs": "stored"}}},
    {"name": "by the same", "start": "random", "train": {"distillation": {"outputs": "stored", "temperature": 2}}},
    {"name": "by gaps", "start": {"kind": "inherit", "layers": [0, 2, 5]}, "allow_unequal": "more blocks",
     "train": {"distillation": {"outputs": "stored", "student": 1, "hidden_states": {"weight": 2, "blocks": "gaps"}}}},
    {"name": "grown by all", "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 2, "until": "max_layers"}},
     "allow_unequal": "rounds", "train": {"distillation": {"outputs": "stored", "hidden_states": {"weight": 2}}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return make_reference(tmp_path_factory.mktemp("model"), tokenizer)


def priced_recipe(tree: dict[str, Any], **options: Any) -> dict[str, Any]:
    return plan_recipe(Recipe.model_validate(tree), choose_devices(["L4"]), **options)


def priced_suite(tree: dict[str, Any], **options: Any) -> dict[str, Any]:
    return plan_suite(Suite.model_validate(tree), choose_devices(["L4"]), **options)


def names(found: dict[str, Any]) -> list[tuple[str, int, list[str]]]:
    return [(each["name"], each["blocks"], each["counts"]) for each in found["trainings"]]


@pytest.mark.long
def test_a_run_does_what_was_priced_recipe(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(text, reference_folder)
    tree["data"]["size"] = "1K tokens"
    summary = run(Recipe.model_validate(tree), tmp_path / "run")
    found = priced_recipe(tree)
    by_name = {(each["name"], each["blocks"]): each for each in found["trainings"]}
    assert by_name["reference", 4]["parameters"]["total"] == summary.reference.parameters
    for number, each in enumerate(summary.rounds, start=1):
        plan = by_name[f"round {number}", each.layers]
        assert plan["parameters"]["total"] == each.parameters
        assert (plan["steps"], plan["tokens"], plan["flops"]) == (each.steps, each.tokens, each.flops)
        assert plan["epochs"] == pytest.approx(each.epochs, abs=1e-4)
        stored = sum(file.stat().st_size for file in (tmp_path / "run" / each.model).glob("*.safetensors"))
        assert plan["disk"]["model"] == pytest.approx(stored, rel=0.1)  # beside the tensors, their names
    (control,) = summary.controls
    plan = by_name["control random", control.layers]
    assert (plan["flops"], plan["parameters"]["total"]) == (control.flops, control.parameters)
    assert read_json(tmp_path / "run" / "data" / "manifest.json")["tokens"]["train"] == found["text"]["train_tokens"]


def test_a_recipe_lists_every_training_that_there_may_be(text: Path, reference_folder: Path) -> None:
    tree = tiny_recipe(text, reference_folder) | {"controls": ["random", "reference-continued"]}
    both, most = ["least", "most"], ["most"]
    assert names(priced_recipe(tree)) == [
        ("reference", 4, both), ("round 1", 1, both), ("round 2", 2, most), ("control random", 1, ["least"]),
        ("control random", 2, most), ("control reference-continued", 4, both),
    ]  # fmt: skip
    tree["grow"] = {"by": 1, "max_layers": 2, "until": "max_layers", "start": "trained"}
    found = priced_recipe(tree)
    assert names(found)[1:3] == [("round 1", 1, both), ("round 2", 2, both)]
    steps = {(each["name"], each["blocks"]): each["steps"] for each in found["trainings"]}
    assert steps["control random", 2] == 2 * steps["round 2", 2]  # the budget of the rounds it went through
    tree |= {"grow": None, "controls": ["random"]}
    assert names(priced_recipe(tree))[1:] == [("round 1", 1, both), ("control random", 1, both)]


def test_a_recipe_whose_reference_is_made_first(text: Path) -> None:
    found = priced_recipe(tiny_recipe(text))
    reference = found["trainings"][0]
    assert (reference["name"], reference["blocks"], reference["steps"]) == ("reference", 3, 12)
    assert reference["flops"] > 0


def test_of_a_recipe_the_config_is_enough(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((reference_folder / "config.json").read_bytes())
    tree, other = tiny_recipe(Path("/nowhere/text"), tmp_path), tiny_recipe(text, reference_folder)
    assert {each["epochs"] for each in priced_recipe(tree)["trainings"]} == {None}
    for one in (tree, other):
        one["data"]["size"] = "2K tokens"
    assert priced_recipe(tree)["trainings"] == priced_recipe(other)["trainings"]
    tree["data"] = {"prepared": "/nowhere/data"}
    assert priced_recipe(tree)["text"]["train_tokens"] is None


def test_a_smaller_vocabulary_is_priced(text: Path, reference_folder: Path) -> None:
    tree = tiny_recipe(text, reference_folder)
    whole = priced_recipe(tree)["trainings"][1]["parameters"]
    tree["inherit"]["vocabulary"] = 280
    fewer = priced_recipe(tree)["trainings"][1]["parameters"]
    assert whole["total"] - fewer["total"] == 2 * 20 * 32  # rows of embeddings and head
    tree["inherit"]["vocabulary"] = "text"
    assert priced_recipe(tree)["trainings"][1]["parameters"] == whole


def test_prepared_text_says_how_much_there_is(
    text: Path, reference_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    data = Data.model_validate({"sources": [{"path": str(text)}], "size": "2K tokens", "validation": "600 tokens"})
    prepare(data, tokenizer, tmp_path / "data")
    tree = tiny_recipe(text, reference_folder) | {"data": {"prepared": str(tmp_path / "data")}}
    tree["train"]["length"] = "3 epochs"
    found = priced_recipe(tree)
    assert found["text"]["train_tokens"] == 2000
    assert found["trainings"][1]["steps"] == 3 * (1999 // 16) // 4


@pytest.mark.parametrize(
    ("data", "length", "said"),
    [({"size": "10 tokens"}, "1 epochs", "do not fill one sequence"), ({}, "20 tokens", "less than one step")],
)
def test_too_little_text_or_length(
    data: dict[str, str], length: str, said: str, text: Path, reference_folder: Path
) -> None:
    tree = tiny_recipe(text, reference_folder)
    tree["data"] |= data
    tree["train"]["length"] = length
    with pytest.raises(InputError, match=said):
        priced_recipe(tree)


def test_a_length_that_fills_no_whole_steps(text: Path, reference: Path) -> None:
    tree = tiny_suite(text, reference, [{"name": "a", "start": "inherit"}, {"name": "b", "start": "random"}])
    assert priced_suite(tree)["rounded_down"] == []
    tree["train"]["length"] = "600 tokens"
    assert priced_suite(tree)["rounded_down"] == ["600 tokens asked for; 9 whole steps of 64 are 576"]
    tree["arms"][1] |= {"train": {"batch": "5 sequences"}}
    assert priced_suite(tree)["rounded_down"][1:] == ["600 tokens asked for; 7 whole steps of 80 are 560"]


def test_a_recipe_turned_round(text: Path, reference_folder: Path) -> None:
    found = priced_recipe(tiny_recipe(text, reference_folder), memory=1e9, hours=0.01)["fit"]
    assert found["most_blocks"]["as the recipe says"] == 4
    assert [row["blocks"] for row in found["rows"]] == [1, 2, 3, 4]
    assert all(row["micro_batch"] == 4 for row in found["rows"])


@pytest.mark.long
def test_a_comparison_does_what_was_priced_suite(text: Path, reference: Path, tmp_path: Path) -> None:
    tree = tiny_suite(text, reference, ARMS, seeds=[1, 2])
    tree["data"]["size"] = "1K tokens"
    tree["hardware"] = {"device": "cpu"}  # so that `precision: auto` is known
    done = compare(tree, tmp_path / "out")
    found = priced_suite(tree)
    by_name = {each["name"]: each for each in found["trainings"]}
    for arm in done.arms:
        assert isinstance(arm, JudgedArm), arm.failures
        assert arm.state == "finished"
        stages = [
            each for each in found["trainings"] if each["name"] == arm.name or each["name"].startswith(f"{arm.name}, ")
        ]
        last = stages[-1]
        assert last["seeds"] == len(arm.runs) == 2
        if "grown" not in arm.name:  # whose result is one of its rounds
            assert (last["blocks"], last["parameters"]["total"]) == (arm.layers, arm.parameters)
        before = by_name["random"] if arm.name == "stacked" else None  # whose training counts as this arm's, too
        for what in ("tokens", "flops", "steps"):
            own = sum(stage[what] for stage in stages) + (before[what] if before else 0)
            assert own == pytest.approx(getattr(arm, what)), (arm.name, what)
        if arm.teacher_flops is not None:
            own = sum(stage["teacher"]["flops"] for stage in stages)  # each stage learns from other blocks
            assert own == pytest.approx(arm.teacher_flops, rel=1e-3)
            heads = sum(stage["teacher"]["head_flops"] for stage in stages)
            assert heads == pytest.approx(arm.teacher_head_flops or 0)
            assert last["teacher"]["outputs"] == arm.teacher_outputs
    assert by_name["by states"]["teacher"]["head_flops"] > 0
    passes = {each["name"]: each["teacher"]["flops"] for each in found["trainings"] if each["teacher"]}
    assert passes["by states"] == passes["by the same"]
    del passes["by the same"]
    heads = sum(2 * each["teacher"]["head_flops"] for each in found["trainings"] if each["teacher"])
    twice = passes["taught"] + passes["taught by inherit"]  # of each seed
    assert found["flops"]["least"]["teachers"] == pytest.approx(sum(passes.values()) + twice + heads)
    assert len(list((tmp_path / "shared" / "teachers").glob("*/manifest.json"))) == 2 + 1 + 1 + 2
    stored = sum(file.stat().st_size for file in (tmp_path / "shared" / "teachers").rglob("*.bin"))
    assert found["disk"]["least"]["teachers"] == pytest.approx(stored)


def test_a_suite_lists_every_stage_and_its_sums(text: Path, reference: Path) -> None:
    arms = [ARMS[0], ARMS[2], {**ARMS[7], "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 3}}}]
    found = priced_suite(tiny_suite(text, reference, arms, seeds=[3, 4, 5]))
    both, most = ["least", "most"], ["most"]
    assert [(each["name"], each["blocks"], each["seeds"], each["counts"]) for each in found["trainings"]] == [
        ("reference", 6, 1, both), ("random", 3, 3, both), ("stacking, first stage", 2, 3, both),
        ("stacking", 4, 3, both), ("grown, round 1", 1, 3, both), ("grown, round 2", 2, 3, most),
        ("grown, round 3", 3, 3, most),
    ]  # fmt: skip
    assert found["seeds"] == [3, 4, 5]
    steps = {each["name"]: each["steps"] for each in found["trainings"]}
    assert steps["stacking, first stage"] + steps["stacking"] == steps["random"] == 8
    parts = [(each["flops"] + each["evaluation_flops"]) * each["seeds"] for each in found["trainings"]]
    assert found["flops"]["most"]["models"] == pytest.approx(sum(parts))
    assert found["flops"]["least"]["models"] == pytest.approx(sum(parts[:5]))
    (row,) = found["devices"]
    work = sum(each["device_flops"] * each["seeds"] for each in found["trainings"])
    assert row["hours"]["most"][1] == pytest.approx(work / row["flops_per_second"][0] / 3600)


@pytest.mark.long
def test_of_a_suite_the_config_is_enough(text: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((reference / "config.json").read_bytes())
    tree, other = tiny_suite(Path("/nowhere/text"), tmp_path, ARMS), tiny_suite(text, reference, ARMS)
    for one in (tree, other):
        one["data"]["size"] = "2K tokens"
    assert priced_suite(tree)["trainings"] == priced_suite(other)["trainings"]


def test_a_reference_that_all_arms_share_is_trained_once(text: Path) -> None:
    tree = tiny_suite(text, None, ARMS[:2], seeds=[1, 2])
    tree["arms"][1] = {"name": "inherit", "start": "inherit"}
    reference = priced_suite(tree)["trainings"][0]
    assert (reference["name"], reference["steps"], reference["seeds"], reference["blocks"]) == ("reference", 12, 1, 4)


def test_text_of_an_arms_own_and_unknown_text(text: Path, reference: Path) -> None:
    arms = [{"name": "all", "start": "random"}, {"name": "some", "start": "random", "data": {"size": "500 tokens"}}]
    tree = tiny_suite(text, reference, arms)
    tree["data"]["size"] = "2K tokens"
    epochs = {each["name"]: each["epochs"] for each in priced_suite(tree)["trainings"]}
    assert epochs["some"] == pytest.approx(epochs["all"] * 124 / 31)  # sequences of 16 in either text
    del tree["data"]["size"]
    tree["train"]["length"], tree["arms"] = (
        "2 epochs",
        [{"name": "stacking", "start": {"kind": "stacking", "layers": 4}}],
    )
    found = priced_suite(tree)
    size = sum(file.stat().st_size for file in text.rglob("*") if file.is_file())
    assert found["text"]["estimated_from_bytes"] == size
    tokens = round(size * 4 / math.log2(300)) - 600
    assert found["text"]["train_tokens"] == tokens
    assert sum(each["tokens"] for each in found["trainings"][1:]) == pytest.approx(2 * tokens, rel=0.02)
    assert any(f"estimated from {size / 1e6:,.1f} MB" in sentence for sentence in found["warnings"])
    tree["data"]["sources"] = [{"dataset": "someone/elsewhere"}]
    found = priced_suite(tree)
    assert found["trainings"][1]["tokens"] + found["trainings"][2]["tokens"] == pytest.approx(1e9, rel=1e-6)
    assert any("not known without reading it" in sentence for sentence in found["warnings"])
    tree["data"]["sources"] = [{"path": "/nowhere/text"}]
    with pytest.raises(InputError, match="/nowhere/text: no such file or folder"):
        priced_suite(tree)


def test_a_suite_turned_round(text: Path, reference: Path) -> None:
    found = priced_suite(tiny_suite(text, reference, ARMS[:1]), memory=1e9, hours=0.01)["fit"]
    assert [row["blocks"] for row in found["rows"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (
            [{"start": {"kind": "inherit", "layers": 7}}],
            "arm it: start.layers: 7 blocks asked for, the reference has 6",
        ),
        ([{"start": {"kind": "stacking", "of": "nowhere"}}], "arm it: start.of: there is no arm 'nowhere'"),
        ([{"start": "growth"}], "arm it: start: growth trains as many rounds"),
        ([{"start": "random", "train": {"length": "9 steps"}}], "arm it: train.length: 576 tokens"),
        ([{"start": {"kind": "inherit", "of": "/nowhere"}}], "arm it: /nowhere: no such model"),
    ],
)
def test_what_cannot_be_is_said_in_the_arms_name(
    arms: list[dict[str, Any]], said: str, text: Path, reference: Path
) -> None:
    with pytest.raises(InputError, match=said):
        priced_suite(tiny_suite(text, reference, [{"name": "it", **arm} for arm in arms]))


def test_a_reference_whose_config_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(SUITES / "low-data.yaml"), "--reference=/nowhere"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: /nowhere: no such model; ")
    assert (shown.err.count("\n"), shown.out) == (1, "")


@pytest.mark.long
@pytest.mark.parametrize("width", [80, 120])
def test_the_command_takes_suites_too(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["plan", str(SUITES / "distillation-2-cores.yaml"), "--seeds=[1,2,3]", "--device", "CPU"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for said in ("inherit distilled", "teacher", "of all seeds", "8 blocks"):
        assert said in text


@pytest.mark.long
@pytest.mark.parametrize("file", sorted(SUITES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_suite_that_comes_along(file: Path, tmp_path: Path) -> None:
    """At its own size: configs are enough."""
    words = [] if file.stem.startswith("shapes") else ["reference.train.tokenizer={vocabulary: 50257}"]
    if file.stem.startswith("low-data") and not file.stem.endswith("cores"):
        fields = {"model_type": "llama", "hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26}
        (tmp_path / "config.json").write_text(str(fields | {"num_attention_heads": 32}).replace("'", '"'))
        words = [f"reference={tmp_path}"]
    if file.stem.endswith("smollm2"):
        fields = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        fields |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        words = [f"reference={tmp_path}"]
    suite = load_suite(file, [*words, *without_models(file)])
    found = plan_suite(suite, choose_devices(["A100"]))
    names = [each["name"] for each in found["trainings"]]
    assert names[0] == "reference"
    for arm in suite.arms:
        assert any(f"{name}, ".startswith(f"{arm.name}, ") for name in names), arm.name
