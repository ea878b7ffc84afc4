"""A suite as a list of trainings: what `plan` prices is what `compare` does."""

from pathlib import Path
from typing import Any

import pytest

from inheritune import compare
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.experiment import Suite, load_suite, plan_suite
from inheritune.planner import choose_devices
from tiny_suites import make_reference, tiny_suite

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
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return make_reference(tmp_path_factory.mktemp("model"), tokenizer)


def planned(tree: dict[str, Any], **options: Any) -> dict[str, Any]:
    return plan_suite(Suite.model_validate(tree), choose_devices(["L4"]), **options)


@pytest.mark.long
def test_a_comparison_does_what_was_planned(text: Path, reference: Path, tmp_path: Path) -> None:
    tree = tiny_suite(text, reference, ARMS, seeds=[1, 2])
    tree["data"]["size"] = "1K tokens"
    done = compare(tree, tmp_path / "out")
    found = planned(tree)
    by_name = {each["name"]: each for each in found["trainings"]}
    for arm in done["arms"]:
        assert arm["state"] == "finished", arm["failures"]
        stages = [
            each
            for each in found["trainings"]
            if each["name"] == arm["name"] or each["name"].startswith(f"{arm['name']}, ")
        ]
        last = stages[-1]
        assert last["seeds"] == len(arm["runs"]) == 2
        if arm["name"] != "grown":  # whose result is one of its rounds
            assert (last["blocks"], last["parameters"]["total"]) == (arm["layers"], arm["parameters"])
        before = by_name["random"] if arm["name"] == "stacked" else None  # whose training counts as this arm's, too
        for what in ("tokens", "flops", "steps"):
            own = sum(stage[what] for stage in stages) + (before[what] if before else 0)
            assert own == pytest.approx(arm[what]), (arm["name"], what)
        if "teacher_flops" in arm:
            assert last["teacher"]["flops"] == pytest.approx(arm["teacher_flops"], rel=1e-3)
            assert last["teacher"]["outputs"] == arm["teacher_outputs"]
    teachers = by_name["taught"]["teacher"]["flops"] * 2 + by_name["taught by inherit"]["teacher"]["flops"] * 2
    assert found["flops"]["least"]["teachers"] == pytest.approx(teachers)
    stored = sum(file.stat().st_size for file in (tmp_path / "shared" / "teachers").rglob("*.bin"))
    assert found["disk"]["least"]["teachers"] == pytest.approx(stored)


def test_every_stage_and_its_sums(text: Path, reference: Path) -> None:
    arms = [ARMS[0], ARMS[2], {**ARMS[7], "start": {"kind": "growth", "layers": 1, "grow": {"by": 1, "max_layers": 3}}}]
    found = planned(tiny_suite(text, reference, arms, seeds=[3, 4, 5]))
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


def test_the_config_is_enough(text: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((reference / "config.json").read_bytes())
    expected = planned(tiny_suite(text, reference, ARMS))
    assert planned(tiny_suite(Path("/nowhere/text"), tmp_path, ARMS))["trainings"] == expected["trainings"]


def test_a_reference_that_all_arms_share_is_trained_once(text: Path) -> None:
    tree = tiny_suite(text, None, ARMS[:2], seeds=[1, 2])
    tree["arms"][1] = {"name": "inherit", "start": "inherit"}
    reference = planned(tree)["trainings"][0]
    assert (reference["name"], reference["steps"], reference["seeds"], reference["blocks"]) == ("reference", 12, 1, 4)


def test_text_of_an_arms_own_and_unknown_text(text: Path, reference: Path) -> None:
    arms = [{"name": "all", "start": "random"}, {"name": "some", "start": "random", "data": {"size": "500 tokens"}}]
    tree = tiny_suite(text, reference, arms)
    tree["data"]["size"] = "2K tokens"
    epochs = {each["name"]: each["epochs"] for each in planned(tree)["trainings"]}
    assert epochs["some"] == pytest.approx(epochs["all"] * 124 / 31)  # sequences of 16 in either text
    del tree["data"]["size"]
    tree["train"]["length"], tree["arms"] = (
        "2 epochs",
        [{"name": "stacking", "start": {"kind": "stacking", "layers": 4}}],
    )
    found = planned(tree)
    assert found["trainings"][1]["tokens"] + found["trainings"][2]["tokens"] == pytest.approx(1e9, rel=1e-6)
    assert any("not known without reading it" in sentence for sentence in found["warnings"])


def test_turned_round(text: Path, reference: Path) -> None:
    found = planned(tiny_suite(text, reference, ARMS[:1]), memory=1e9, hours=0.01)["fit"]
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
        planned(tiny_suite(text, reference, [{"name": "it", **arm} for arm in arms]))


def test_a_reference_whose_config_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(SUITES / "low-data.yaml"), "--reference=/nowhere"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: /nowhere: no such model; ")
    assert (shown.err.count("\n"), shown.out) == (1, "")


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
    words = ["reference.train.tokenizer={vocabulary: 50257}"]
    if file.stem.startswith("low-data") and not file.stem.endswith("cores"):
        fields = {"model_type": "llama", "hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26}
        (tmp_path / "config.json").write_text(str(fields | {"num_attention_heads": 32}).replace("'", '"'))
        words = [f"reference={tmp_path}"]
    suite = load_suite(file, words)
    found = plan_suite(suite, choose_devices(["A100"]))
    names = [each["name"] for each in found["trainings"]]
    assert names[0] == "reference"
    for arm in suite.arms:
        assert any(f"{name}, ".startswith(f"{arm.name}, ") for name in names), arm.name
