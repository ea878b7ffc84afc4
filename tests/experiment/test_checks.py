"""Bad suites are errors that name the arm, before anything is computed."""

from pathlib import Path
from typing import Any

import pytest

from inheritune import compare
from inheritune.errors import InputError
from inheritune.experiment.checks import plan_checked as plan
from inheritune.experiment.suite import Suite
from inheritune.recipe import check
from inheritune.runtime import Runtime
from tiny_suites import make_reference, tiny_suite

STATES = {"hidden_states": {"weight": 10}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return make_reference(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (
            {"start": "inherited"},
            r"arm it: .*there is no start 'inherited'; did you mean inherit\? legal are distilbert, growth",
        ),
        ({"start": {"kind": ["inherit"]}}, r"arm it: .*there is no start \[.inherit.\]"),
        ({"start": {"layers": 3}}, "arm it: .*not a start"),
        ({"start": {"kind": "random", "choose": "last"}}, "arm it: unknown key"),
        ({"start": "inherit", "train": {"lenght": "4 steps"}}, "arm it: train: unknown key 'lenght'"),
        ({"start": "inherit", "train": {"sequence_length": 8}}, "arm it: train.sequence_length: it is the suite's"),
        ({"start": "inherit", "teacher": "other"}, "arm it: teacher: nothing is learnt from it"),
        ({"start": "inherit", "name": "../it"}, "name"),
        ({"start": "inherit", "name": "reference"}, "not a name for an arm"),
        ({"start": "inherit", "name": "other"}, "arms: other is used twice"),
    ],
)
def test_what_the_file_alone_shows(text: Path, arm: dict[str, Any], words: str) -> None:
    suite = tiny_suite(text, None, [{"name": "other", "start": "random"}, {"name": "it", **arm}])
    with pytest.raises(InputError, match=words):
        check(Suite, suite, "suite")


def test_filters_of_suite_and_arm(text: Path) -> None:
    suite = tiny_suite(text, None, [{"name": "it", "start": "random", "data": {"filters": ["exact_duplicates"]}}])
    suite["data"]["filters"] = ["gopher_quality"]
    with pytest.raises(InputError, match=r"arm it: data\.filters: the suite has filters too"):
        check(Suite, suite, "suite")


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (
            [{"start": {"kind": "inherit", "layers": 7}}],
            "arm it: start.layers: 7 blocks asked for, the reference has 6",
        ),
        ([{"start": {"kind": "inherit", "of": "nowhere"}}], "arm it: nowhere"),
        ([{"start": {"kind": "stacking", "of": "nowhere"}}], "arm it: start.of: there is no arm 'nowhere'"),
        ([{"start": {"kind": "inherit", "of": "it"}}], "arm it: needs its own result: it needs it"),
        (
            [{"start": "random", "train": {"length": "16 steps"}}],
            "arm it: train.length: 1,024 tokens, the suite's arms have 512; .* allow_unequal",
        ),
        ([{"start": "growth"}], "arm it: start: growth trains as many rounds"),
        ([{"start": {"kind": "inherit", "submodules": ["head"]}}], "arm it: inherit.submodules: the model has no head"),
        (
            [
                {"start": {"kind": "random", "layers": 2}, "train": {"length": "4 steps"}, "allow_unequal": "half"},
                {"name": "on it", "start": {"kind": "stacking", "of": "it", "layers": 4}},
            ],
            "arm on it: train.length: 768 tokens",
        ),
        ([{"start": "inherit", "train": {"distillation": {"top_k": 10**6}}}], "arm it: train.distillation.top_k"),
        (
            [{"start": "half-width", "train": {"distillation": STATES}}],
            r"arm it: train\.distillation\.hidden_states: the model's hidden size is 8, the teacher's 16; give",
        ),
        (
            [{"start": {"kind": "hybrid-stacking", "layers": 4}, "train": {"distillation": STATES}}],
            r"hidden_states: the model's blocks \[0, 1, 0, 1\] are not some of the teacher's 6 in their order",
        ),
        (
            [
                {"start": {"kind": "inherit", "layers": 3}},
                {
                    "name": "on it",
                    "start": {"kind": "inherit", "layers": 2, "of": "it"},
                    "train": {"distillation": STATES},
                },
            ],
            "arm on it: .*hidden_states: which of the teacher's 6 blocks the model's 2 are is not known",
        ),
    ],
)
def test_what_the_models_show(text: Path, reference: Path, arms: list[dict[str, Any]], words: str) -> None:
    suite = check(Suite, tiny_suite(text, reference, [{"name": "it", **arm} for arm in arms]), "suite")
    with pytest.raises(InputError, match=words):
        plan(suite, Runtime("cpu", 1))


def test_half_width_where_nothing_is_left(text: Path, tmp_path: Path) -> None:
    suite = tiny_suite(text, None, [{"name": "it", "start": "half-width"}])
    suite["reference"]["train"]["model"] |= {"n_embd": 8, "n_head": 1}
    with pytest.raises(InputError, match=r"^arm it: .*0.5 of n_head 1 cannot be; legal are 1"):
        compare(suite, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary(text: Path, reference: Path, tmp_path: Path, tokenizer: Any) -> None:
    other = make_reference(tmp_path / "other", tokenizer, vocabulary=len(tokenizer) + 64)
    arms = [
        {"name": "taught", "start": "inherit", "teacher": str(other), "train": {"distillation": {}}},
        {"name": "its child", "start": {"kind": "inherit", "of": str(other)}},
    ]
    with pytest.raises(InputError) as raised:
        plan(check(Suite, tiny_suite(text, reference, arms), "suite"), Runtime("cpu", 1))
    said = str(raised.value)
    assert "arm taught: teacher: " in said
    assert "arm its child: start.of: " in said
    assert "entries, the reference's" in said


def test_problems_of_all_arms_come_together(text: Path, reference: Path) -> None:
    arms = [{"name": name, "start": {"kind": "inherit", "layers": 9}} for name in ("a", "b")]
    with pytest.raises(InputError, match=r"(?s)arm a: .*\narm b: "):
        plan(check(Suite, tiny_suite(text, reference, arms), "suite"), Runtime("cpu", 1))


def test_other_batches_of_as_many_tokens_are_equal(text: Path, reference: Path) -> None:
    """512 tokens: 8 steps of 4 sequences; 10 of 3 are 480, less than a step apart."""
    arms = [
        {"name": "it", "start": "random", "train": {"length": "512 tokens", "batch": "3 sequences", "micro_batch": 1}}
    ]
    assert plan(check(Suite, tiny_suite(text, reference, arms), "suite"), Runtime("cpu", 1))


def test_whose_states_can_be_learnt(text: Path, reference: Path) -> None:
    """From the reference, from an arm as deep, and with random weights. Blocks that repeat have no place in the teacher."""
    taught = {"train": {"distillation": STATES}}
    arms = [
        {"name": "whole", "start": "reference"},
        {"name": "some", "start": {"kind": "inherit", "layers": [0, 2, 5]}, "teacher": "whole", **taught},
        {"name": "of whole", "start": {"kind": "inherit", "of": "whole", "layers": [1, 4]}, **taught},
        {"name": "random", "start": {"kind": "random", "layers": 3}, **taught},
        {"name": "as deep", "start": {"kind": "random", "layers": 3}, "teacher": "some", **taught},
        {"name": "stacked", "start": {"kind": "hybrid-stacking", "layers": 6}, **taught},
    ]
    with pytest.raises(InputError) as raised:
        plan(check(Suite, tiny_suite(text, reference, arms), "suite"), Runtime("cpu", 1))
    (problem,) = raised.value.problems
    assert problem.place.startswith("arm stacked: ")
