"""Limits: what must be refused is, at once and in little memory; what is at a limit is taken."""

import re
from pathlib import Path

import pytest
import yaml

import limited
from inheritune.errors import InputError
from inheritune.limits import LAYERS, YAML_NODES, check_counts, check_yaml
from processes import in_processes

KIND = "a pipe, socket or device, not a file"
WORDS = {
    "aliases": "more than 100,000 values", "an alias in itself": "is inside what it names",
    "depth": "(more than 50 levels|too deep)", "size": "(at most|more than) [0-9,]+ (bytes|are read|values)",
    "a device": f"({KIND}|no config.json|no such model)", "a pipe": KIND, "layers": "at most 1,000 blocks",
    "blocks": "at most 1,000 blocks", "experts": "at most 100,000 experts", "width": "at most 16,777,216", "no number": "NaN, which is no number", "dropout": "legal is 0 to 1", "a terabyte": "more than 256,000,000 bytes",
    "vocabulary": "at most 16,777,216", "labels": "at most 10,000 labels", "header": "a header of", "entries": "at most 10,000", "an array": "at most",
    "tensors": "at most 100,000", "arrays in arrays": "arrays inside each other", "text": "beyond its end",
    "settings": "at most 16,000,000 are read", "values": "more than 10,000,000 values",
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each case said, in a process that has little time and memory for each."""
    folder = tmp_path_factory.mktemp("limits")
    in_processes(limited.run, folder, processes=1)
    lines = (line.split("\t") for line in (folder / "said").read_text(encoding="utf-8").splitlines())
    return {name: words for name, _, words in lines}


@pytest.mark.long
@pytest.mark.parametrize("name", list(limited.cases(Path("unused"))))
def test_what_is_beyond_a_limit_is_refused_in_little_time_and_memory(name: str, said: dict[str, str]) -> None:
    expected = next(words for key, words in WORDS.items() if re.search(rf"\b{key}\b", name.partition(": ")[2]))
    assert re.search(expected, said[name]), said[name]
    assert ";" in said[name]  # and a remedy


def weight(value: object) -> int:
    """The values of a tree, slowly, with everything written out."""
    if isinstance(value, dict):
        return 1 + sum(weight(part) for pair in value.items() for part in pair)
    return 1 + sum(map(weight, value)) if isinstance(value, list) else 1


@pytest.mark.parametrize("count", [5, 6, 7])
def test_values_are_counted_with_every_alias_written_out(count: int) -> None:
    text = "a: &a [x, y, {k: v}]\n" + f"b: &b [{', '.join(['*a'] * 1300)}]\n" + "".join(
        f"c{n}: [*b, *b]\n" for n in range(count)
    )  # fmt: skip
    total = weight(yaml.safe_load(text))
    if total <= YAML_NODES:
        check_yaml(text, "a.yaml")
    else:
        with pytest.raises(InputError, match=r"a\.yaml:8: more than"):
            check_yaml(text, "a.yaml")
    assert (total > YAML_NODES) == (count > 5)


def test_models_at_the_limits_are_taken() -> None:
    check_counts({"num_hidden_layers": LAYERS, "hidden_size": 2**24, "num_experts": 100}, "config.json")
    known = {"num_hidden_layers": 61, "n_routed_experts": 384, "vocab_size": 163840, "max_position_embeddings": 10**8}
    check_counts(known | {"rope_theta": 5e7, "layer_norm_eps": 1e-5, "layer_types": ["full"] * 61}, "config.json")
