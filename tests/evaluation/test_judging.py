from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inheritune import runtime
from inheritune.corpus import prepare
from inheritune.data import Examples, Sequences
from inheritune.errors import InputError, RunError
from inheritune.evaluation import Evaluation, figures, gap, is_matched, judge, judge_on, mean, sequence_losses
from inheritune.training import Objective


def test_losses_are_transformers_own(text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path) -> None:
    prepared = prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    found = judge_on(model, tmp_path / "data", sequence_length=24, device="cpu", micro_batch=5)
    rows = Sequences(prepared.tokens("validation"), 24, "x")
    with torch.no_grad():
        for number, loss in enumerate(found.losses):
            row = torch.from_numpy(rows.rows([number]).windows)
            assert loss == pytest.approx(model(input_ids=row, labels=row).loss.item(), rel=1e-5)
    assert len(found.losses) == rows.count > 20


def test_how_many_at_once_does_not_matter_and_the_model_keeps_its_mode(reference_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder).train()
    sequences = Sequences(np.random.default_rng(1).integers(0, 290, 200), 16, "x")
    state = torch.get_rng_state()
    one = judge(model, sequences, runtime.start("cpu"), micro_batch=1).losses
    many = judge(model, sequences, runtime.start("cpu"), micro_batch=7).losses
    assert one == pytest.approx(many, rel=1e-5)
    objective = Objective(model.eval(), None)

    def score(examples: Examples) -> torch.Tensor:
        return objective(examples.inputs, examples.targets, by_token=True)

    few = sequence_losses(score, sequences, runtime.start("cpu"), 7, most=3)
    assert few == pytest.approx(one[:3], rel=1e-5)
    model.train()
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_mean_and_paired_gap_against_numpy() -> None:
    random = np.random.default_rng(2)
    hard = random.normal(3, 1, 50)  # sequences differ far more than models
    reference, target = hard + random.normal(0, 0.01, 50), hard + 0.1 + random.normal(0, 0.01, 50)
    found = gap(target.tolist(), reference.tolist())
    difference = target - reference
    assert found.value == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std(ddof=1) / np.sqrt(50))
    assert found.error is not None
    assert mean(target.tolist()).error > 10 * found.error  # what pairing is for
    assert mean([1.5]).error is None


def test_gap_needs_the_same_sequences() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gap([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("gap_value", "tolerance", "matched"), [(-0.1, 0, True), (0, 0, True), (0.01, 0, False), (0.01, 0.01, True)]
)
def test_matched_is_a_gap_within_the_tolerance(gap_value: float, tolerance: float, matched: bool) -> None:
    assert is_matched(gap_value, tolerance) is matched


def test_figures_of_a_judged_model() -> None:
    found = figures(Evaluation((2.0, 4.0)), Evaluation((1.0, 2.0)), tolerance=1.5)
    assert found == {"val_loss": 3.0, "val_loss_se": 1.0, "gap": 1.5, "gap_se": 0.5, "matched": True}
    assert figures(Evaluation((2.0, 4.0)), None, 0.0) == {"val_loss": 3.0, "val_loss_se": 1.0}


def test_a_broken_model_is_not_judged(reference_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(RunError, match="sequence 0 is nan"):
        judge(model, Sequences(np.zeros(40, np.uint16), 16, "x"), runtime.start("cpu"), micro_batch=2)


def test_data_of_a_larger_vocabulary_is_refused(
    text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path
) -> None:
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.config.vocab_size = 100
    with pytest.raises(InputError, match="do not fit"):
        judge_on(model, tmp_path / "data", sequence_length=16, device="cpu")
    with pytest.raises(InputError, match=r"attention: got 'documents'; give 'sequence' or 'document'"):
        judge_on(model, tmp_path / "data", sequence_length=16, device="cpu", attention="documents")
