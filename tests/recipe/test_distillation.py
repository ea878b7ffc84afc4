"""What a recipe may say of distillation."""

from typing import Any

import pytest

from inheritune.errors import InputError
from inheritune.recipe import Training, check

TREE = {"length": "5 steps", "batch": "8 sequences", "sequence_length": 16}


def test_the_papers_settings_are_the_defaults() -> None:
    assert check(Training, TREE, "train").distillation is None
    found = check(Training, TREE | {"distillation": {}}, "train").distillation
    assert found is not None
    assert (found.student, found.temperature, found.top_k, found.outputs) == (0.6, 1.0, None, "auto")


@pytest.mark.parametrize(("wrong", "expected"), [
    ({"student": 1}, "distillation: student: with 1 the teacher would have no share"),
    ({"student": -0.1}, "distillation.student"),
    ({"temperature": 0}, "distillation.temperature"),
    ({"top_k": 0}, "distillation.top_k"),
    ({"outputs": "cached"}, "distillation.outputs"),
    ({"student": 1, "hidden_states": {"weight": 1}, "top_k": 4}, "student: with 1 there is no KL for temperature and top_k"),
    ({"hidden_states": {}}, "'distillation.hidden_states.weight' is missing"),
    ({"hidden_states": {"weight": 0}}, "hidden_states: weight: with 0 nothing is learnt"),
    ({"hidden_states": {"weight": {"start": 0, "end": 0}}}, "hidden_states: weight: with 0 nothing is learnt"),
    ({"hidden_states": {"weight": 1, "distance": "l2"}}, "distillation.hidden_states.distance"),
    ({"topk": 5}, "unknown key 'distillation.topk'; did you mean 'top_k'?"),
])  # fmt: skip
def test_what_is_not_legal(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        check(Training, TREE | {"distillation": wrong}, "train")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
