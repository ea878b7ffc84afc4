import json
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
from inheritune.evaluation import Evaluation, figures, judge, judge_on, mean_loss
from inheritune.training import Objective


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_losses_of_documents_are_transformers_own(
    tokenizer: Any, reference_folder: Path, tmp_path: Path, micro_batch: int
) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": f"{n} words " * (3 + n % 9)}) + "\n" for n in range(80)))
    prepared = prepare({"sources": [{"path": str(source)}], "validation": "600 tokens"}, tokenizer, tmp_path / "data")
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    found = judge_on(model, tmp_path / "data", sequence_length=24, device="cpu", micro_batch=micro_batch)
    rows = Sequences(prepared.tokens("validation"), 24, "x")
    tokens = prepared.tokens("validation").read()
    by_document: dict[int, list[float]] = {}
    with torch.no_grad():
        for number in range(rows.count):
            row = torch.from_numpy(rows.rows([number]).windows)
            losses = torch.nn.functional.cross_entropy(
                model(input_ids=row).logits[0, :-1], row[0, 1:], reduction="none"
            )
            for at, loss in enumerate(losses.tolist(), number * 24 + 1):
                by_document.setdefault(int((tokens[:at] == prepared.end_of_text).sum()), []).append(loss)
    assert len(by_document) >= 5
    assert found.tokens == tuple(len(losses) for losses in by_document.values())
    assert found.documents == len(by_document)
    assert found.losses == pytest.approx([np.mean(losses) for losses in by_document.values()], rel=1e-5)
    every = [loss for losses in by_document.values() for loss in losses]
    assert found.loss.value == found.curve_loss == pytest.approx(np.mean(every), rel=1e-5)


def test_how_many_at_once_does_not_matter_and_the_model_keeps_its_mode(reference_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder).train()
    sequences = Sequences(np.random.default_rng(1).integers(0, 290, 200), 16, "x")
    state = torch.get_rng_state()
    one = judge(model, sequences, runtime.start("cpu"), micro_batch=1, curve_sequences=3)
    many = judge(model, sequences, runtime.start("cpu"), micro_batch=7, curve_sequences=3)
    assert one.losses == pytest.approx(many.losses, rel=1e-5)
    objective = Objective(model.eval(), None)

    def score(examples: Examples) -> torch.Tensor:
        return objective(examples.inputs, examples.targets, by_token=True)

    for most, expected in ((3, one.curve_loss), (99, one.loss.value)):
        assert mean_loss(score, sequences, runtime.start("cpu"), 7, most) == pytest.approx(expected, rel=1e-5)
    model.train()
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_figures_of_a_judged_model() -> None:
    losses = {"losses": (3.0,) * 8 + (5.0,) * 8, "tokens": (10,) * 16, "documents": 16, "curve_loss": 4.5}
    found = figures(Evaluation(**losses), None, 0.0)
    assert (found["val_loss"], found["curve_loss"], found["validation_documents"]) == (4.0, 4.5, 16)
    assert found["val_loss_se"] == pytest.approx(np.std([3.0, 5.0] * 8, ddof=1) / 4)
    assert "gap" not in found
    reference = Evaluation(losses=(4.1,) * 16, tokens=(10,) * 16, documents=16, curve_loss=4.1)
    beside = figures(Evaluation(**losses), reference, tolerance=0.5)
    assert beside["gap"] == pytest.approx(-0.1)
    assert (beside["decision"], beside["gap_se"]) == ("matched", pytest.approx(found["val_loss_se"]))
    close = figures(Evaluation(**losses), reference, tolerance=0.0)
    assert close["decision"] == "undecided"
    assert close["tokens_to_decide"] > 160


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
