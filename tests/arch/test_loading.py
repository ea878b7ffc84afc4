"""Checkpoints that load, and everything that can be wrong with one: a line that names the file, before any work."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from inheritune.arch import check_tokenizer_fits, load_config, load_model, load_tokenizer, save_model
from inheritune.errors import InputError
from inheritune.recipe import Reference

TENSOR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def stored(llama: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of weights; no test may change it."""
    folder = tmp_path_factory.mktemp("stored")
    llama.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return shutil.copytree(stored, tmp_path / "checkpoint")


@pytest.fixture
def shards(llama: PreTrainedModel, tmp_path: Path) -> Path:
    """A checkpoint in several files of weights, to damage."""
    llama.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


def load(place: Path | str) -> PreTrainedModel:
    return load_model(Reference(path=str(place)))


def load_in_order(reference: Reference) -> PreTrainedModel:
    """In the order in which every command loads: the config, then the weights."""
    load_config(reference)
    return load_model(reference)


def line_of(place: Path | str, loads: Callable[[Reference], Any] = load_model) -> str:
    """What is said of a checkpoint that cannot be loaded: one line with three parts."""
    with pytest.raises(InputError) as caught:
        loads(Reference(path=str(place)))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    (problem,) = caught.value.problems
    assert problem.place
    assert problem.what
    assert problem.remedy
    return said


def same_weights(left: PreTrainedModel, right: PreTrainedModel) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestRoundTrip:
    def test_single_file(self, llama: PreTrainedModel, stored: Path) -> None:
        loaded = load(stored)
        assert same_weights(loaded, llama)
        assert not loaded.training
        assert loaded.config.name_or_path == str(stored)

    def test_shards(self, llama: PreTrainedModel, shards: Path) -> None:
        assert same_weights(load(shards), llama)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_saved_again_in_the_dtype_as_stored(
        self, llama: PreTrainedModel, tmp_path: Path, dtype: torch.dtype
    ) -> None:
        save_model(AutoModelForCausalLM.from_config(llama.config, dtype=dtype), None, tmp_path / "first")
        loaded = load(tmp_path / "first")
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {dtype}
        save_model(loaded, None, tmp_path / "deeper" / "second")
        assert same_weights(load(tmp_path / "deeper" / "second"), loaded)

    def test_every_file_may_be_read_by_others(self, llama: PreTrainedModel, stored: Path, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            save_model(llama, None, tmp_path / "saved")
            save_model(load(stored), None, tmp_path / "again")
        finally:
            os.umask(before)
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o644"}

    def test_what_stood_there_is_replaced_and_nothing_else_is_left(self, llama: PreTrainedModel, folder: Path) -> None:
        (folder / "old.txt").write_text("old", encoding="utf-8")
        save_model(llama, None, folder)
        assert {file.name for file in folder.iterdir()} == {
            "config.json",
            "generation_config.json",
            "model.safetensors",
        }
        assert [file.name for file in folder.parent.iterdir()] == [folder.name]

    def test_config_alone(self, stored: Path) -> None:
        config = load_config(Reference(path=str(stored)))
        assert (config.model_type, config.num_hidden_layers) == ("llama", 2)


def cut_weights(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return file


def cut_header(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    return file


def empty_weights(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(b"")
    return file


def text_for_weights(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", encoding="utf-8")
    return file


def broken_config(folder: Path) -> Path:
    file = folder / "config.json"
    file.write_text('{"model_type": "llama", ', encoding="utf-8")
    return file


def config_in_another_encoding(folder: Path) -> Path:
    file = folder / "config.json"
    file.write_bytes(b"\xff\xfe\x00")
    return file


def no_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def no_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def foreign_pickle(folder: Path) -> Path:
    """Weights as a pickle that runs a command when it is read."""
    (folder / "model.safetensors").unlink()
    command = f"touch {folder / 'was-run'}"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'{command}'\ntR.".encode())
    return folder


def _change_config(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    return folder


def field_of_another_type(folder: Path) -> Path:
    return _change_config(folder, hidden_size="wide")


def fields_that_contradict(folder: Path) -> Path:
    return _change_config(folder, num_attention_heads=5, head_dim=None)


def unknown_model_type(folder: Path) -> Path:
    return _change_config(folder, model_type="zork")


def no_layers(folder: Path) -> Path:
    return _change_config(folder, num_hidden_layers=0)


def part_of_another_type(folder: Path) -> Path:
    return _change_config(folder, text_config=5)


DAMAGE: list[tuple[Callable[[Path], Path], str]] = [
    (cut_weights, "damaged or cut short"),
    (cut_header, "damaged or cut short"),
    (empty_weights, "damaged or cut short"),
    (text_for_weights, "damaged or cut short"),
    (broken_config, "not JSON"),
    (config_in_another_encoding, "not JSON"),
    (no_config, "no config.json"),
    (no_weights, "no weights"),
    (foreign_pickle, "refused: its weights are a pickle with more than tensors in it (os.system)"),
    (field_of_another_type, "hidden_size"),
    (fields_that_contradict, "attention heads"),
    (unknown_model_type, "zork"),
    (no_layers, "how many blocks"),
    (part_of_another_type, "its text part is no config"),
]


class TestDamage:
    @pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
    def test_damage_is_said_with_its_place(self, folder: Path, damage: Callable[[Path], Path], said: str) -> None:
        place = damage(folder)
        line = line_of(folder, load_in_order)
        assert line.startswith(f"{place}: ")
        assert said in line
        assert not (folder / "was-run").exists()

    def test_missing_shard(self, shards: Path) -> None:
        lost = sorted(shards.glob("*.safetensors"))[1]
        lost.unlink()
        line = line_of(shards)
        assert line.startswith(f"{lost}: missing, though model.safetensors.index.json names it")

    def test_shard_cut_short(self, shards: Path) -> None:
        cut = sorted(shards.glob("*.safetensors"))[-1]
        cut.write_bytes(cut.read_bytes()[:-1])
        assert line_of(shards).startswith(f"{cut}: damaged or cut short")

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
    def test_broken_index(self, shards: Path, text: str) -> None:
        index = shards / "model.safetensors.index.json"
        index.write_text(text, encoding="utf-8")
        assert line_of(shards).startswith(f"{index}: not an index of weight files")

    def test_missing_tensor(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        del tensors[TENSOR]
        save_file(tensors, file, {"format": "pt"})
        line = line_of(folder)
        assert line.startswith(f"{folder}: 1 missing tensor")
        assert TENSOR in line

    def test_tensor_of_another_shape(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors[TENSOR] = tensors[TENSOR][:-1].contiguous()
        save_file(tensors, file, {"format": "pt"})
        line = line_of(folder)
        assert line.startswith(f"{folder}: 1 mismatched tensor")
        assert TENSOR in line

    def test_config_with_more_layers_than_weights(self, folder: Path) -> None:
        _change_config(folder, num_hidden_layers=3)
        assert "9 missing tensors (model.layers.2." in line_of(folder)


class TestPlaces:
    @pytest.mark.parametrize("place", ["./nowhere", "/nowhere/at/all", "~/nowhere", "one/two/three", "bare-name", ""])
    def test_what_is_not_there(self, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        place = place or str(tmp_path / "nowhere")
        assert line_of(place).startswith(f"{place}: no such model; give a hub id")

    def test_a_hub_id_without_a_network(self) -> None:
        line = line_of("some-org/some-model")
        assert line.startswith("some-org/some-model: not in the local cache, and HF_HUB_OFFLINE is set")

    def test_no_hub_id(self) -> None:
        assert line_of("some org/some model").startswith("some org/some model: not a hub id")

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_file_is_no_model(self, stored: Path, name: str) -> None:
        assert line_of(stored / name).startswith(f"{stored / name}: not a model: a file that is not .gguf")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert line_of(tmp_path).startswith(f"{tmp_path}: no config.json")

    def test_a_folder_without_tokenizer(self, stored: Path) -> None:
        line = line_of(stored, load_tokenizer)
        assert line.startswith(f"{stored}: ")
        assert line.endswith("give one with reference.tokenizer")

    def test_a_tokenizer_from_elsewhere(self, stored: Path, reference_folder: Path, tokenizer: Any) -> None:
        loaded = load_tokenizer(Reference(path=str(stored), tokenizer=str(reference_folder)))
        assert loaded.get_vocab() == tokenizer.get_vocab()


class TestOtherKinds:
    def test_encoder_decoder(self, tmp_path: Path) -> None:
        config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path)
        line = line_of(tmp_path, load_config)
        assert "encoder-decoder" in line
        assert "decoder-only" in line

    def test_encoder(self, tmp_path: Path) -> None:
        config = BertConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
        )
        BertLMHeadModel(config).save_pretrained(tmp_path)
        assert "bert is an encoder" in line_of(tmp_path, load_config)

    def test_code_that_comes_with_a_checkpoint_is_not_run(self, folder: Path) -> None:
        mark = folder / "was-run"
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
        _change_config(folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
        assert "trust_remote_code" in line_of(folder, load_config)
        assert not mark.exists()


class TestTokenizerFits:
    def words(self, count: int, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
        """`count` words, and special tokens added behind them."""
        vocabulary = {f"word{number}": number for number in range(count)}
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="word0")), unk_token="word0"
        )
        made.add_special_tokens({"additional_special_tokens": list(special)})
        return made

    def test_ids_beyond_the_embedding(self) -> None:
        config = LlamaConfig(vocab_size=64)
        check_tokenizer_fits(self.words(64), config, "here")
        with pytest.raises(InputError, match=r"here: .*the tokenizer's ids reach 64, the model has 64; give the tok"):
            check_tokenizer_fits(self.words(65), config, "here")

    def test_special_tokens_may_lie_beyond(self) -> None:
        made = self.words(64, ("<image>",))
        assert made.convert_tokens_to_ids("<image>") == 64
        check_tokenizer_fits(made, LlamaConfig(vocab_size=64), "here")

    def test_fewer_entries_than_rows_are_usual(self) -> None:
        check_tokenizer_fits(self.words(60), LlamaConfig(vocab_size=64), "here")
