"""The loss of every family with a prefix before sequences and documents, against each sequence passed alone."""

import document
import numpy as np
import parity
import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune import runtime
from inheritune.analysis import Trials
from inheritune.arch import silence_libraries
from inheritune.data import Packing, Sequences, clusters_of
from inheritune.evaluation import judge

END, PREFIX, LENGTH = 1, (0, 5), 14
# What they give a token depends on how long the whole input is, so padding behind shorter sequences shows (training.md).
_SEES_LENGTH = ("cpmant", "dots3_note_text", "reformer", "xlnet")
_QUICK = ("llama", "gemma3_text", "mamba", "qwen2_moe", "opt", "falcon")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


def plainly(model: PreTrainedModel, window: list[int]) -> list[float]:
    """The losses of one sequence: the prefix before it and before each document in it, nothing behind it."""
    ids, targets = list(PREFIX), []
    for at, token in enumerate(window):
        if at and window[at - 1] == END:
            ids += PREFIX
        targets.append(len(ids))
        ids.append(token)
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0].double().log_softmax(-1)
    return [-logs[at - 1, ids[at]].item() for at in targets]


def check(kind: str, analysed: bool) -> None:
    model = parity.reference_of(kind)
    stream = np.random.default_rng(1).integers(6, 60, 5 * LENGTH)
    stream[[3, 20, 24, 40]] = END  # sequences with none, one and two documents that begin in them
    sequences = Sequences(stream, LENGTH, "here", packing=Packing(PREFIX, END))
    expected = [plainly(model, stream[first : first + LENGTH].tolist()) for first in range(0, len(stream), LENGTH)]
    size = 1 if kind in _SEES_LENGTH else 3
    found = judge(model, sequences, runtime.start("cpu"), precision="float32", micro_batch=size)
    ids = clusters_of(sequences).of(range(5), sequences.rows(range(5)).predicted).ravel()
    by_cluster = np.bincount(ids, np.ravel(expected)) / np.bincount(ids)
    assert list(found.losses) == pytest.approx(by_cluster, rel=2e-4), kind
    if not analysed:
        return
    trials = Trials(model, sequences.rows(range(5)), micro_batch=3)
    assert sorted(trials.losses.tolist()) == pytest.approx(sorted(np.mean(expected, axis=1)), rel=2e-4), kind


@pytest.mark.parametrize("kind", _QUICK)
def test_some_families(kind: str) -> None:
    check(kind, analysed=True)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_every_family(kind: str) -> None:
    if document.standing(kind)[0] == "yes":
        check(kind, analysed=False)
