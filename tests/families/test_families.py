"""Invariants 1 and 2 of the design for every family that is supported; refusals where one is not, or not wholly."""

from pathlib import Path
from typing import Any

import document
import parity
import pytest
import torch
from forward import logits_of, randomised, some_tokens
from table import REFUSED
from tiny import tiny_config
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import check_decoder, silence_libraries
from inheritune.arch.structure import decoder_config
from inheritune.inheritance import inherit

# Some of the ways in which blocks differ or lean on their place, before the long test of every model type: plain,
# scaled by number, encoder's class, windows and experts, hybrid by pattern, shared keys and values, refused.
QUICK = ("llama", "gpt2", "roberta", "qwen2_moe", "jamba", "gemma3n_text", "diffllama")
DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


def check_family(kind: str) -> None:
    """Every selection passes or is refused for the reason that the table expects."""
    expected = REFUSED.get(kind, {})
    for verdict in document.verdicts(kind):
        assert not verdict.faults, f"{kind}, blocks {verdict.kept}: {verdict.faults}"
        reason = expected.get(tuple(verdict.kept), "")
        assert bool(verdict.refused) == bool(reason), f"{kind}, blocks {verdict.kept}: refused {verdict.refused!r}"
        assert reason in verdict.refused, f"{kind}, blocks {verdict.kept}"
    assert any(not verdict.refused and len(verdict.kept) < 6 for verdict in document.verdicts(kind))


@pytest.mark.parametrize("kind", QUICK)
def test_one_of_some_ways(kind: str) -> None:
    check_family(kind)


@pytest.mark.parametrize("kind", ["exaone4", "exaone_moe"])
@pytest.mark.parametrize("pattern", [4, "LLLG", None])
@pytest.mark.parametrize("kept", [[0, 3, 5], [3], [2, 3, 4], [3, 4]], ids=str)
def test_a_pattern_that_nothing_uses_forbids_no_selection(kind: str, pattern: Any, kept: list[int]) -> None:
    """EXAONE's kinds of layers are in `layer_types`; the pattern beside it is what they were once made of."""
    kinds = ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2
    config = tiny_config(kind, sliding_window_pattern=pattern, layer_types=kinds)
    torch.manual_seed(0)
    reference = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)
    target = inherit(reference, kept)
    assert target.config.layer_types == [kinds[index] for index in kept]
    tokens_BT = some_tokens()
    expected = parity.logits_with(reference, kept, tokens_BT)
    torch.testing.assert_close(logits_of(target, tokens_BT), expected, rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_every_model_type(kind: str) -> None:
    """Supported ones pass, and each is in docs/architectures.md as it is; `make docs` writes that file."""
    if document.standing(kind)[0] == "yes":
        check_family(kind)
    assert document.row(kind) in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_the_document_has_every_model_type_and_its_own_numbers() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line for line in text.partition("| narrower |")[2].splitlines() if line.startswith("| ")][1:]
    assert [line.split("|")[1].strip() for line in rows] == list(CAUSAL)
    assert text == document.header(rows) + "\n".join(rows) + "\n"
    assert sum("| yes |" in line or "| where " in line for line in rows) >= 120


@pytest.mark.parametrize("kind", ["llama4", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "dots3_note"])
def test_the_text_part_of_a_composite_is_taken_where_transformers_builds_it(kind: str) -> None:
    found = decoder_config(CONFIG_MAPPING[kind]())
    assert found.model_type == f"{kind}_text"
    check_decoder(found)
