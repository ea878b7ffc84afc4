"""A training's checkpoint becomes what the training itself would have saved, and plain transformers loads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from conftest import stored_tensors, tiny_recipe
from converter import stand_in
from inheritune import export, export_gguf, load_recipe, prepare, run, train
from inheritune.cli import main
from inheritune.conversion import ExportedCheckpoint
from inheritune.errors import InputError
from inheritune.inheritance import free_output
from inheritune.recipe import Evaluate
from inheritune.training import fault_of
from processes import together

SETTINGS = {
    "length": "6 steps", "batch": "4 sequences", "sequence_length": 16, "optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": "2 steps", "keep": 9},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversion") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.generation_config.temperature = 0.7  # without do_sample: transformers refuses to save that
    folder = tmp_path_factory.mktemp("trained") / "out"
    train(model, data, folder, settings=SETTINGS, evaluate=Evaluate.model_validate({"every": "2 steps"}))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copied")
    return tmp_path / "copied" / "checkpoints"


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the model card, which is about the last step and is not exported."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "step-000000006"


def test_the_last_step_is_the_model_that_was_saved_file_by_file(trained: Path, tmp_path: Path) -> None:
    model, found = export(last(trained), tmp_path / "out")
    assert files(tmp_path / "out") == files(trained / "model")
    assert set(files(tmp_path / "out")) >= {"config.json", "generation_config.json", "tokenizer.json"}
    assert found == ExportedCheckpoint(6, None, model.num_parameters())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(9)[None]
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)


def test_a_step_in_between_holds_the_weights_of_that_step(trained: Path, tmp_path: Path) -> None:
    _, found = export(trained / "checkpoints" / "step-000000002", tmp_path / "out")
    assert found.step == 2
    stored = stored_tensors(trained / "checkpoints" / "step-000000002")
    for name, tensor in stored_tensors(tmp_path / "out").items():
        assert torch.equal(tensor, stored[f"model/{name}"])
        assert not torch.equal(tensor, stored_tensors(last(trained))[f"model/{name}"])


@pytest.mark.long
def test_the_best_weights_load_and_generate_elsewhere(trained: Path, tmp_path: Path) -> None:
    """In a process that has never heard of inheritune, after the training's folder was moved."""
    moved = shutil.copytree(trained, tmp_path / "moved")
    assert main(["export", str(moved / "checkpoints" / "best"), str(tmp_path / "out")]) == 0
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        f"m, t = M.from_pretrained({str(tmp_path / 'out')!r}), T.from_pretrained({str(tmp_path / 'out')!r})\n"
        "assert m.generation_config.temperature == 0.7 and 'inheritune' not in sys.modules\n"
        "print(m.generate(**t('the small model', return_tensors='pt'), max_new_tokens=5).shape[1] > 5)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=clean)
    assert done.stdout == "True\n", done.stderr


def test_the_command_says_which_step_and_loss(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((trained / "checkpoints" / "best" / "checkpoint.json").read_text())
    assert main(["export", str(trained / "checkpoints" / "best"), str(tmp_path / "one")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'one'}: step {best['step']}, ")
    assert said.endswith(f"parameters, validation loss {best['val_loss']:.4f}\n")
    assert main(["export", str(trained / "checkpoints" / "best"), str(tmp_path / "two"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["val_loss"]) == (str(tmp_path / "two"), best["val_loss"])


def tied() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def experts() -> MixtralForCausalLM:
    """Transformers stores its tensors under other names than the model's."""
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=2, max_position_embeddings=32,
        )
    )  # fmt: skip


@pytest.mark.parametrize("build", [tied, experts])
def test_tied_weights_and_other_stored_names(data: Path, tmp_path: Path, build: Any) -> None:
    torch.manual_seed(1)
    train(build(), data, tmp_path / "run", settings=SETTINGS | {"length": "2 steps"})
    export(tmp_path / "run" / "checkpoints" / "step-000000002", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "run" / "model")


def test_a_reference_in_half_precision(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    """The training is in float32, whatever the reference's dtype, and so is what comes out."""
    model = AutoModelForCausalLM.from_pretrained(reference_folder, dtype=torch.bfloat16)
    train(model, data, tmp_path / "run", settings=SETTINGS | {"length": "2 steps"})
    exported, _ = export(tmp_path / "run" / "checkpoints" / "step-000000002", tmp_path / "out")
    assert exported.dtype == torch.float32
    assert files(tmp_path / "out") == files(tmp_path / "run" / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a")["input_ids"]


def test_what_is_no_checkpoint_is_told_where_some_are(trained: Path, tmp_path: Path) -> None:
    for place in (trained, trained / "checkpoints"):
        with pytest.raises(
            InputError, match=r"is not a checkpoint of a training; give one of .*checkpoints/best, .*006"
        ):
            export(place, tmp_path / "out")
    for place in (trained / "model", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"is not a checkpoint of a training; give one, such as"):
            export(place, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_another_process_makes_is_left_to_it(copied: Path, tmp_path: Path) -> None:
    with free_output(tmp_path / "out"), pytest.raises(InputError, match="another process is at work in it"):
        export(copied / "best", tmp_path / "out")
    export(copied / "best", tmp_path / "out")


def test_a_damaged_checkpoint_is_refused_and_the_others_are_named(copied: Path, tmp_path: Path) -> None:
    damaged = copied / "step-000000004"
    file = next(damaged.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert fault_of(damaged) is not None
    with pytest.raises(
        InputError, match=r"004: is damaged \(shard.* has changed\); give another one: .*best, .*002, .*006"
    ):
        export(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert damaged.exists()  # only the training itself takes damaged ones away


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_checkpoint_that_its_training_replaces_meanwhile_is_not_mixed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    plain = HuggingFaceStorageReader.read_data

    def read(*given: Any) -> Any:
        done = plain(*given) if moment == "after" else None
        facts = json.loads((copied / "best" / "checkpoint.json").read_text())
        (copied / "best" / "checkpoint.json").write_text(json.dumps(facts | {"step": 99}))
        if moment == "before":
            raise FileNotFoundError(2, "No such file or directory", "a shard")
        return done

    monkeypatch.setattr(HuggingFaceStorageReader, "read_data", read)
    with pytest.raises(InputError, match=r"best: was taken away or replaced by its training while it was read; export"):
        export(copied / "best", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_frame_is_refused(copied: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(copied / "best", tmp_path / "alone" / "best")
    with pytest.raises(InputError, match=r"there is no frame/ .* beside it; leave it in .* or copy frame/ along"):
        export(alone, tmp_path / "out")
    shutil.copytree(copied / "frame", tmp_path / "alone" / "frame")
    export(alone, tmp_path / "out")
    (copied / "frame" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"frame: cannot be loaded"):
        export(copied / "best", tmp_path / "other")


def test_a_frame_of_another_model_is_refused(copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "frame" / "config.json").read_text())
    (copied / "frame" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="belongs to another model"):
        export(copied / "best", tmp_path / "out")


def test_it_does_not_write_over_anything(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert main(["export", str(trained / "checkpoints" / "best"), str(tmp_path)]) == 2
    assert "exists already; give another folder, or remove it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_lost_frame_is_made_again_when_the_training_goes_on(
    data: Path, reference_folder: Path, copied: Path, tmp_path: Path
) -> None:
    for name in ("evaluation.json", "training.json"):
        (copied.parent / name).unlink()
    before = files(copied / "frame")
    shutil.rmtree(copied / "frame")
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.generation_config.temperature = 0.7
    train(model, data, copied.parent, settings=SETTINGS, evaluate=Evaluate.model_validate({"every": "2 steps"}))
    assert files(copied / "frame") == before


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.long
def test_a_model_with_code_of_its_own_keeps_it(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    own = shutil.copytree(reference_folder, tmp_path / "own")
    (own / "own_model.py").write_text(CODE)
    where = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"}
    fields = {"model_type": "own-llama", "architectures": ["OwnForCausalLM"], "auto_map": where}
    (own / "config.json").write_text(json.dumps(json.loads((own / "config.json").read_text()) | fields))
    tree = tiny_recipe(text) | {
        "reference": {"path": str(own), "trust_remote_code": True},
        "controls": [],
        "grow": None,
    }
    run(load_recipe(write_recipe(tree)), tmp_path / "run")
    place = tmp_path / "run" / "rounds" / "1-1layers"
    with pytest.raises(InputError, match="trust_remote_code"):
        export(place / "checkpoints" / "best", tmp_path / "out")
    export(place / "checkpoints" / "step-000000010", tmp_path / "out", trust_remote_code=True)
    assert (tmp_path / "out" / "own_model.py").is_file()
    assert files(tmp_path / "out") == files(place / "model")


@pytest.mark.long
def test_what_several_processes_wrote_in_shares(data: Path, reference_folder: Path, tmp_path: Path) -> None:
    words = [
        "train",
        reference_folder,
        tmp_path / "run",
        "--data",
        data,
        "--length",
        "4 steps",
        "--batch",
        "4 sequences",
    ]
    for done in together(2, *words, "--sequence-length", "16", "--parallel", "fsdp", "--device", "cpu"):
        assert done.returncode == 0, done.stderr
    place = tmp_path / "run" / "checkpoints" / "step-000000004"
    assert len(list(place.glob("*.safetensors"))) == 2
    export(place, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "run" / "model")


def test_a_checkpoint_and_a_training_become_gguf_files(trained: Path, tmp_path: Path) -> None:
    """The converter gets the weights that `export` writes, and those of the folder."""
    converter = stand_in(tmp_path / "c")
    export(trained / "checkpoints" / "best", tmp_path / "best")
    for at, (given, expected) in enumerate((
        (trained / "checkpoints" / "best", tmp_path / "best"), (trained, trained / "model"),
    )):  # fmt: skip
        export_gguf(given, tmp_path / f"{at}.gguf", converter=converter)
        staged = json.loads((tmp_path / f"{at}.gguf").read_text())["files"]["model.safetensors"]
        assert bytes.fromhex(staged) == (expected / "model.safetensors").read_bytes()
