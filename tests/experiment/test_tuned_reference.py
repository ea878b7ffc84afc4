"""`reference.tune`: the reference is trained on the text first, and is then source, teacher and measure."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import heard, read_json, tiny_recipe, weights
from inheritune.data import Sequences, open_prepared
from inheritune.errors import InputError
from inheritune.experiment import compare, run
from inheritune.recipe import load_recipe
from tiny_suites import make_reference, tiny_suite


def recipe(text: Path, reference: Path, **tune: Any) -> dict[str, Any]:
    tree = tiny_recipe(text, reference)
    tree["reference"] = {"path": str(reference), "tune": {"optimizer": {"learning_rate": 0.01}, **tune}}
    tree["inherit"] = {"layers": [0, 1, 3]}
    tree["train"] |= {"length": "2 steps", "distillation": {"hidden_states": {"weight": 1.0}}}
    return tree | {"controls": [], "grow": None, "hardware": {"device": "cpu"}}


def losses(folder: Path, sequences: Sequences) -> list[float]:
    """The mean loss of each sequence, with plain transformers."""
    model, means = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for number in range(sequences.count):
        window = torch.from_numpy(sequences.rows([number]).windows)
        with torch.no_grad():
            logits = model(input_ids=window[:, :-1]).logits.float()
        means.append(torch.nn.functional.cross_entropy(logits[0], window[0, 1:]).item())
    return means


@pytest.mark.long
def test_the_tuned_reference_is_source_teacher_and_measure(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    out, lines = tmp_path / "run", list[str]()
    with heard(lines.append):
        found = run(load_recipe(write_recipe(recipe(text, reference_folder, length="2 epochs"))), out)
    result = read_json(out / "reference" / "evaluation.json")
    tuned, data = out / "reference" / "model", open_prepared(out / "data")
    validation = Sequences(data.tokens("validation"), 16, "test")
    for folder, loss in ((tuned, result["val_loss"]), (reference_folder, result["untuned"]["val_loss"])):
        own = losses(folder, validation)
        assert loss == pytest.approx(sum(own) / len(own), abs=2e-4)
    assert result["val_loss"] < result["untuned"]["val_loss"] - 0.1
    assert result["untuned"]["gap"] == pytest.approx(result["untuned"]["val_loss"] - result["val_loss"], abs=1e-4)

    # the part held out is the text's end: it is not trained on, and decides which step is taken
    train = Sequences(data.tokens("train"), 16, "test")
    held = -(-train.count // 10)
    assert result["tokens"] == 2 * (train.count - held) * 16 // 64 * 64
    end = losses(tuned, train.part(train.count - held, held))
    best = min(result["held_out_losses"].values())
    assert sum(end) / held == pytest.approx(best, abs=2e-4)
    assert result["held_out_losses"][str(result["tuned_step"])] == best

    # the blocks come from it, and its states are learnt: those of the reference as it was would be far away
    notes = read_json(next(out.glob("rounds/*/inherited.json")))
    assert notes["blocks"] == [0, 1, 3]
    assert found.reference.val_loss == pytest.approx(result["val_loss"])
    assert found.rounds[0].gap == pytest.approx(found.rounds[0].val_loss - result["val_loss"], abs=1e-4)
    start = next(iter_metrics(out))["val_loss"]
    assert start < result["untuned"]["val_loss"] - 0.1
    over = found.result.val_loss - result["untuned"]["val_loss"]
    assert found.result.over_untuned == pytest.approx(over, abs=1e-4)
    assert any("reference, tuned: validation loss" in line for line in lines)
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "The reference was tuned on this text first" in page
    card = (out / found.result.model / "README.md").read_text(encoding="utf-8")
    assert "tuned on the same text, and was trained on" in card


def iter_metrics(out: Path) -> Any:
    from inheritune.runlog import read_metrics

    return iter(read_metrics(next(out.glob("rounds/*/metrics.jsonl"))))


def test_a_reference_that_gains_nothing_stays_as_it_is(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, length="3 steps", optimizer={"learning_rate": 3.0})
    tree["train"]["distillation"] = None
    with heard((lines := []).append):
        found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    assert any("tuning on this text gains nothing" in line for line in lines)
    assert not (tmp_path / "run" / "reference" / "model").exists()
    assert found.reference.tuned_step == 0
    assert found.reference.untuned is not None
    assert found.reference.val_loss == found.reference.untuned.val_loss
    assert found.reference.tokens == 3 * 64  # what was spent is counted all the same
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "gained nothing" in page


def test_a_tuning_that_diverges_ends_with_the_best_weights_before(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, length="40 steps", optimizer={"learning_rate": 300.0, "clip": None})
    tree["reference"]["tune"]["schedule"] = {"warm_up": "39 steps"}
    tree["train"]["distillation"] = None
    with heard((lines := []).append):
        found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    assert any("Tuning ends here, with the best weights so far" in line for line in lines)
    assert found.reference.steps is not None
    assert 0 < found.reference.steps < 40
    assert found.reference.untuned is not None
    assert found.reference.val_loss <= found.reference.untuned.val_loss


@pytest.mark.long
def test_an_interrupted_tuning_resumes_to_the_same_weights(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, length="12 steps")
    settings = load_recipe(write_recipe(tree))

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("reference: loading") and (tmp_path / "cut/reference/tuning/training.json").exists():
            raise Stop

    with pytest.raises(Stop), heard(stop):
        run(settings, tmp_path / "cut")
    run(settings, tmp_path / "cut")
    run(settings, tmp_path / "whole")
    assert weights(tmp_path / "cut/reference/model") == weights(tmp_path / "whole/reference/model")
    one, other = (read_json(tmp_path / name / "summary.json")["result"] for name in ("cut", "whole"))
    assert one == other


def test_suites_share_a_tuned_reference(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    reference = make_reference(tmp_path / "reference", tokenizer)
    arms = [
        {"name": "distilled", "start": {"kind": "inherit", "layers": 2}, "train": {"distillation": {}}},
        {"name": "inherit", "start": {"kind": "inherit", "layers": 2}},
    ]
    suite = tiny_suite(text, reference, arms)
    suite["reference"] = {"path": str(reference), "tune": {"length": "6 steps", "optimizer": {"learning_rate": 0.01}}}
    found = compare(suite, tmp_path / "first")
    assert found.reference.untuned is not None
    assert found.reference.val_loss < found.reference.untuned.val_loss
    with heard((lines := []).append):
        compare(suite | {"arms": arms[1:]}, tmp_path / "second")
    assert not any("tuning" in line for line in lines)
    assert len(list((tmp_path / "shared").glob("reference-*"))) == 1
    assert any("trained already" in line for line in lines)


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ({"tune": {"held_out": "80%"}}, "give at most 50%"),
        ({"tune": {"length": "1"}}, "a size needs its unit"),
        ({"path": None, "train": {"model": {}, "tokenizer": "x"}, "tune": {}}, "tune goes with path, not with train"),
    ],
)
def test_settings_of_tuning_that_cannot_be(
    reference: dict[str, Any], error: str, text: Path, reference_folder: Path, write_recipe: Any
) -> None:
    tree = tiny_recipe(text, reference_folder)
    tree["reference"] = {"path": str(reference_folder)} | reference
    with pytest.raises(InputError, match=error):
        load_recipe(write_recipe(tree))


def test_the_tuned_reference_is_its_own_control(text: Path, reference_folder: Path, write_recipe: Any) -> None:
    tree = recipe(text, reference_folder) | {"controls": ["reference-continued"]}
    with pytest.raises(InputError, match="remove the control"):
        load_recipe(write_recipe(tree))


def test_a_text_too_small_to_hold_out_of(text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = recipe(text, reference_folder)
    tree["train"] |= {"batch": "1 sequences", "micro_batch": 1, "length": "1 steps"}
    tree["data"]["size"] = "20 tokens"
    with pytest.raises(InputError, match="take the reference as it is"):
        run(load_recipe(write_recipe(tree)), tmp_path / "run")
