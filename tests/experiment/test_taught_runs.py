"""A recipe with distillation: the reference is the teacher of all rounds and of the random control."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import tiny_recipe
from inheritune import load_recipe, run
from inheritune.data import Sequences, batch_numbers, open_prepared
from inheritune.errors import InputError
from inheritune.experiment import dry_run
from inheritune.recipe import FIRST_HALF, HALF
from inheritune.runlog import read_metrics


def recipe(text: Path, reference: Path, **distillation: Any) -> dict[str, Any]:
    tree = tiny_recipe(text, reference)
    tree["train"]["distillation"] = distillation
    tree["grow"] = {"by": 1, "until": "max_layers", "max_layers": 2}
    tree["controls"] = ["random", "reference-continued"]
    tree["hardware"] = {"device": "cpu"}
    return tree


@pytest.mark.long
def test_the_reference_teaches(text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = recipe(text, reference_folder, top_k=8, outputs="stored")
    found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    random, continued = found.controls
    for arm in (*found.rounds, random):
        assert arm.teacher_outputs == "stored"
        assert arm.teacher_flops == found.rounds[0].teacher_flops > 0
        folder = (tmp_path / "run" / arm.model).parent
        records = [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]
        for record in records:
            assert record["loss"] == pytest.approx(0.6 * record["cross_entropy"] + 0.4 * record["kl"], rel=1e-5)
    assert continued.teacher_flops is continued.teacher_outputs is None
    assert len(list((tmp_path / "run" / "teacher").glob("*/manifest.json"))) == 1
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "teacher FLOPs" in page


@pytest.mark.long
def test_a_reference_that_is_made_first_has_no_teacher(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["train"]["distillation"] = {"outputs": "online"}
    tree |= {"grow": None, "controls": [], "hardware": {"device": "cpu"}}
    found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    assert "teacher" not in (tmp_path / "run" / "reference" / "evaluation.json").read_text(encoding="utf-8")
    assert found.rounds[0].teacher_outputs == "online"
    own = read_metrics(tmp_path / "run" / "reference" / "metrics.jsonl")
    assert not any("kl" in record for record in own)


@pytest.mark.long
def test_a_round_learns_the_states_behind_its_gaps(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    """Blocks 0 and 2 of 4 learn the outputs of 1 and 3; so does the random control, which has their places."""
    tree = recipe(text, reference_folder, student=1, hidden_states={"weight": 3}, outputs="stored")
    tree |= {"inherit": {"layers": [0, 2]}, "grow": None, "controls": ["random"]}
    found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    reference = AutoModelForCausalLM.from_pretrained(reference_folder).eval()
    row = Sequences(open_prepared(tmp_path / "run" / "data").tokens("train"), 16, "test")
    inputs = torch.from_numpy(row.rows(batch_numbers(0, 4, row.count, load_recipe(write_recipe(tree)).seed)).windows)[
        :, :-1
    ]
    (one,), (random,) = found.rounds, found.controls
    for arm in (one, random):
        assert arm.teacher_outputs == "stored"
        records = read_metrics((tmp_path / "run" / arm.model).parent / "metrics.jsonl")
        for record in (each for each in records if "loss" in each):
            assert record["loss"] == pytest.approx(record["cross_entropy"] + 3 * record["hidden_states"], rel=1e-5)
            assert "kl" not in record
    assert len(list((tmp_path / "run" / "teacher").glob("*/manifest.json"))) == 1
    records = read_metrics((tmp_path / "run" / one.model).parent / "metrics.jsonl")
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        hook = reference.model.layers[3].register_forward_hook(lambda module, args, output: seen.append(output))
        theirs = reference(inputs, output_hidden_states=True).hidden_states[2], seen[0]
        hook.remove()
        first = reference.model.layers[0]
        reference.model.layers = torch.nn.ModuleList([first, reference.model.layers[2]])
        reference.model.config.num_hidden_layers = 2
        hook = reference.model.layers[1].register_forward_hook(lambda module, args, output: seen.append(output))
        own = reference(inputs, output_hidden_states=True, use_cache=False).hidden_states[1], None
        hook.remove()
    cosines = [
        torch.cosine_similarity(a, b, dim=-1).mean().item() for a, b in zip((own[0], seen[-1]), theirs, strict=True)
    ]
    expected = 1 - sum(cosines) / 2
    value = next(each["hidden_states"] for each in records if "loss" in each)
    assert value == pytest.approx(expected, rel=1e-3)


def test_states_that_are_not_there_are_said_before_anything_is_done(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, hidden_states={"weight": 3})
    tree["inherit"] |= FIRST_HALF
    words = r"^train\.distillation\.hidden_states: the model's hidden size is 16, the teacher's 32; "
    for act in (lambda recipe: run(recipe, tmp_path / "run"), dry_run):
        with pytest.raises(InputError, match=words):
            act(load_recipe(write_recipe(tree)))
    assert not (tmp_path / "run").exists()
    tree["inherit"] |= dict.fromkeys(HALF)
    assert dry_run(load_recipe(write_recipe(tree)))["layers"] == 2


def test_more_entries_than_the_reference_has(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    path = write_recipe(recipe(text, reference_folder, top_k=301))
    with pytest.raises(
        InputError, match=r"train\.distillation\.top_k: 301, the teacher's vocabulary has 300 entries; g"
    ):
        run(load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
