"""A smaller vocabulary in every family: the logits of the tokens that stay are those of the whole model."""

import document
import parity
import pytest
import torch
from forward import VOCABULARY, logits_of
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import Selection, layer_count, silence_libraries
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive

KEPT = (*range(5), *range(5, 30, 3), 31, 32, 33, 40, 60, 66)
_QUICK = ("llama", "gemma3n_text", "bert", "phi", "opt", "moshi", "deepseek_v4")
_REFUSED = {"qwen4_exp_text": "embeddings of n-grams are found by computing with token ids"}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


def check(kind: str) -> None:
    model = parity.reference_of(kind)
    spec = TargetSpec(tuple(range(layer_count(model.config))), width=Selection(vocabulary=KEPT))
    if kind in _REFUSED:
        with pytest.raises(InputError, match=_REFUSED[kind]):
            derive(model, spec)
        return
    target, _ = derive(model, spec)
    assert target.config.vocab_size == len(KEPT) < VOCABULARY
    kept = torch.tensor(KEPT)
    tokens_BT = torch.randint(3, len(KEPT), (2, 10), generator=torch.Generator().manual_seed(0))
    expected = logits_of(model, kept[tokens_BT])[..., kept]
    assert torch.allclose(logits_of(target, tokens_BT), expected, atol=1e-5, rtol=1e-5), kind


@pytest.mark.parametrize("kind", _QUICK)
def test_some_families(kind: str) -> None:
    check(kind)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_every_family(kind: str) -> None:
    if document.standing(kind)[0] == "yes":
        check(kind)
