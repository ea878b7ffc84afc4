import pytest
from hypothesis import given
from hypothesis import strategies as st

from inheritune.recipe import Size, parse_size

UNITS = ("tokens", "steps", "epochs", "minutes", "%", "sequences")


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("1B tokens", 10**9, "tokens"),
        ("64K steps", 64_000, "steps"),
        ("1.5M tokens", 1_500_000, "tokens"),
        ("8 epochs", 8, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("10 minutes", 10, "minutes"),
        ("2%", 2, "%"),
        ("131_072 tokens", 131072, "tokens"),
    ],
)
def test_reads_what_people_write(text: str, amount: float, unit: str) -> None:
    assert parse_size(text, UNITS) == Size(amount, unit)


@pytest.mark.parametrize(
    "text", [8, 3.5, None, "8", "many tokens", "8 parsecs", "-1 steps", "0 steps", "1.5 steps", "1Q tokens"]
)
def test_refuses_the_rest_and_says_what_is_legal(text: object) -> None:
    with pytest.raises(ValueError, match="legal units are"):
        parse_size(text, UNITS)


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ("2%", 1),  # 1.6 of 80
        ("3%", 2),  # 2.4
        ("100%", 80),
        ("1%", 0),
        ("7 steps", 7),
        ("2999 tokens", 2),  # of 1,000
    ],
)
def test_a_part_of_a_training_is_rounded_down_to_whole_steps(size: str, steps: int) -> None:
    assert parse_size(size, ("%", "steps", "tokens")).in_steps(80, 1000) == steps


def test_a_whole_percentage_is_exact() -> None:
    """29 / 100 * 100 is 28.999999999999996."""
    assert [Size(percent, "%").in_steps(100, 1) for percent in range(1, 101)] == list(range(1, 101))


@given(st.integers(1, 10**15), st.sampled_from(["tokens", "steps"]))
def test_what_it_prints_reads_back(amount: int, unit: str) -> None:
    assert parse_size(str(Size(amount, unit)), UNITS) == Size(amount, unit)


@given(st.floats(0.001, 1000), st.sampled_from(["epochs", "minutes"]))
def test_fractions_read_back(amount: float, unit: str) -> None:
    size = Size(round(amount, 6), unit)
    assert parse_size(str(size), UNITS) == size


@given(st.integers(1, 10**9), st.sampled_from(["GB", "MB"]))
def test_small_amounts_read_back(millionths: int, unit: str) -> None:
    size = Size(millionths / 10**6, unit)
    assert parse_size(str(size), ("parameters", "GB", "MB")) == size
