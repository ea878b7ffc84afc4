"""`inheritune.analyze` from Python: every key of analysis.json, which text is seen, what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forward import logits_of
from test_partial import losses_by_hand
from tiny_families import build
from transformers import AutoModelForCausalLM

import inheritune
from conftest import read_json
from inheritune import prepare
from inheritune.analysis import choose_blocks
from inheritune.data import Rows, Sequences, open_prepared, sample
from inheritune.errors import InputError
from inheritune.recipe import Inherit, Reference

SMALL: dict[str, Any] = {"sequences": 4, "sequence_length": 12, "device": "cpu"}
NUMBER, WORDS = (int, float), (str, type(None))


@pytest.fixture(scope="module")
def data(text: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "data"
    prepare({"sources": [{"path": str(text)}], "validation": "600 tokens"}, tokenizer, place)
    return place


@pytest.fixture(scope="module")
def written(data: Path, reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Two models on validation text, the first with a choice, as data and as a folder."""
    out = tmp_path_factory.mktemp("analysis") / "out"
    target = inheritune.inherit(reference_folder, [0, 3])
    spec = Inherit(layers=2, choose="auto", calibration="128 tokens")
    found = inheritune.analyze(
        [reference_folder, target], data=data, tau=[0.9, 0.5], loss_sequences=3, selection=spec, out=out, **SMALL
    ).to_json()
    return found, out


def check_figure(figure: Any, several: bool = True) -> None:
    assert figure.keys() == {"mean", "se"}
    assert isinstance(figure["mean"], float)
    assert np.isfinite(figure["mean"])
    assert figure["se"] >= 0 if several else figure["se"] is None


def check_block(block: dict[str, Any], number: int, several: bool = True) -> None:
    assert block.keys() == {"block", "attention", "influence", "skipped", "depth_loss", "gradients"}
    assert block["block"] == number
    for name in ("influence", "skipped", "depth_loss"):
        check_figure(block[name], several)
    assert block["gradients"].keys() == {"query", "key"}
    attention = block["attention"]
    assert attention.keys() == {"heads", "max_rank", "avg_mass", "lazy"}
    assert len(attention["heads"]) == 4
    check_figure(attention["avg_mass"], several)
    assert attention["avg_mass"]["mean"] == pytest.approx(
        np.mean([head["mass"]["mean"] for head in attention["heads"]])
    )
    for tau, highest in attention["max_rank"].items():
        check_figure(highest, several)
        assert highest["mean"] == max(head["rank"][tau]["mean"] for head in attention["heads"])
    assert attention["lazy"] == (attention["max_rank"]["0.9"]["mean"] < 2)
    for head in attention["heads"]:
        assert head.keys() == {"rank", "mass", "sink", "entropy", "collapsed"}
        assert head["rank"].keys() == attention["max_rank"].keys() == {"0.9", "0.5"}
        for figure in (*head["rank"].values(), head["mass"], head["sink"], head["entropy"]):
            check_figure(figure, several)
        assert head["collapsed"] == (head["rank"]["0.9"]["mean"] < 1.5)


def check_model(model: dict[str, Any], layers: int, several: bool = True) -> None:
    keys = {"name", "path", "layers", "parameters", "loss", "no_attention", "blocks", "angular_distance", "lazy_layers"}
    assert model.keys() == keys | {"lazy_groups", "collapsed_share", "maps", "prefix", "selection", "seconds"}
    assert model["layers"] == len(model["blocks"]) == layers
    check_figure(model["loss"], several)
    for number, block in enumerate(model["blocks"]):
        check_block(block, number, several)
    assert model["blocks"][-1]["depth_loss"] == pytest.approx(model["loss"], abs=1e-4)
    assert [one["blocks"] for one in model["angular_distance"]] == list(range(1, layers + 1))
    for one in model["angular_distance"]:
        assert len(one["distances"]) == layers - one["blocks"] + 1
        for figure in one["distances"]:
            check_figure(figure, several)
            assert 0 <= figure["mean"] <= 1
    assert model["lazy_layers"] == [block["block"] for block in model["blocks"] if block["attention"]["lazy"]]
    heads = [head for block in model["blocks"] for head in block["attention"]["heads"]]
    assert model["collapsed_share"] == sum(head["collapsed"] for head in heads) / len(heads)
    assert model["seconds"].keys() == {"load", "attention", "rank", "losses", "gradients"}
    assert all(isinstance(seconds, NUMBER) and seconds >= 0 for seconds in model["seconds"].values())


def test_every_key_is_there(written: tuple[Any, Path], data: Path, reference_folder: Path) -> None:
    found, _ = written
    assert found.keys() == {"version", "text", "loss_precision", "tau", "collapsed_below", "models"}
    assert (found["version"], found["tau"], found["collapsed_below"]) == (1, [0.9, 0.5], 1.5)
    expected = {"source": f"{data} (validation)", "sequences": 4, "sequence_length": 12, "loss_sequences": 3}
    assert found["text"] == expected
    for model, layers in zip(found["models"], (4, 2), strict=True):
        check_model(model, layers)
    first, second = found["models"]
    assert (first["path"], second["path"]) == (str(reference_folder), None)
    assert first["name"] == reference_folder.name
    assert first["parameters"] == AutoModelForCausalLM.from_pretrained(reference_folder).num_parameters()
    assert first["parameters"] > second["parameters"]
    assert second["selection"] is None
    selection = first["selection"]
    assert {"choose", "blocks", "dropped", "reason"} <= selection.keys()
    assert selection["choose"] == "auto"
    assert sorted([*selection["blocks"], *(one["block"] for one in selection["dropped"])]) == [0, 1, 2, 3]
    assert all(one.keys() == {"block", "increase", "loss"} for one in selection["dropped"])


def test_the_folder_has_the_same_figures_and_opens_by_itself(written: tuple[Any, Path]) -> None:
    found, out = written
    assert read_json(out / "analysis.json") == json.loads(json.dumps(found)) == found
    assert {"analysis.json", "index.html", "analysis.md", "maps-0.npz", "maps-1.npz"} <= {p.name for p in out.iterdir()}
    assert not [path for path in out.parent.iterdir() if path != out]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert 'href="http' not in page
    for number, model in enumerate(found["models"]):
        maps = model["maps"]
        assert maps["file"] == f"maps-{number}.npz"
        ranks = [[head["rank"]["0.9"]["mean"] for head in block["attention"]["heads"]] for block in model["blocks"]]
        potent, lazy = maps["potent"], maps["lazy"]
        assert potent["rank"] == ranks[potent["block"]][potent["head"]] == max(map(max, ranks))
        assert lazy["rank"] == ranks[lazy["block"]][lazy["head"]] == min(map(max, ranks))
        with np.load(out / maps["file"]) as drawn:
            for kind in ("potent", "lazy"):
                assert drawn[kind].shape == (12, 12)
                assert drawn[kind].sum(-1) == pytest.approx(np.ones(12), abs=1e-5)
                assert not np.triu(drawn[kind], 1).any()


def test_figures_are_of_validation_text_and_the_choice_of_training_text(data: Path, reference_folder: Path) -> None:
    spec = Inherit(layers=2, choose="influence", calibration="600 tokens")
    found = inheritune.analyze(reference_folder, data=data, selection=spec, dtype="float32", **SMALL).to_json()
    model, prepared = AutoModelForCausalLM.from_pretrained(reference_folder), open_prepared(data)

    def rows(split: str, count: int, length: int) -> Rows:
        return sample(Sequences(prepared.tokens(split), length, split), count, split)

    judged = torch.from_numpy(rows("validation", 4, 12).windows)
    assert judged.shape == (4, 13)
    losses = losses_by_hand(model.eval(), judged)
    assert found["models"][0]["loss"]["mean"] == pytest.approx(np.mean(losses), abs=1e-5)
    train = rows("train", 600 // 64, 64)  # as long as the model's positions allow
    of_train, of_validation = (
        choose_blocks(model, some, spec).to_json() | {"seconds": 0}
        for some in (train, rows("validation", 600 // 64, 64))
    )
    assert found["models"][0]["selection"] | {"seconds": 0, "version": 1} == of_train != of_validation


def test_text_is_files_folders_and_patterns(text: Path, reference_folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    pieces = {"files": sorted(text.iterdir())[:3], "pattern": text / "00[0-2].txt"}
    found = {
        name: inheritune.analyze(reference_folder, text=paths, **SMALL).to_json()["models"][0]
        for name, paths in pieces.items()
    }
    assert found["files"]["loss"] == found["pattern"]["loss"]
    assert found["files"]["blocks"] == found["pattern"]["blocks"]
    whole = inheritune.analyze(reference_folder, text=text, **SMALL).to_json()
    assert whole["text"]["source"] == str(text)
    assert whole["models"][0]["loss"] != found["files"]["loss"]


def test_one_sequence_has_no_errors_and_a_loaded_model_stays_as_it_was(text: Path, tokenizer: Any) -> None:
    model = build("llama", vocab_size=300)
    tokens = torch.arange(20)[None]
    logits = logits_of(model, tokens)
    model.train()
    found = inheritune.analyze(
        model,
        text=text,
        tokenizer=tokenizer,
        sequences=1,
        sequence_length=12,
        tau=[0.9, 0.5],
        device="cpu",
        dtype="bfloat16",
    ).to_json()
    assert found["models"][0]["name"] == "llama"
    assert found["models"][0]["path"] is None
    check_model(found["models"][0], 4, several=False)
    assert model.training
    assert model.dtype == torch.float32
    assert torch.equal(logits_of(model.eval(), tokens), logits)


@pytest.mark.long
def test_a_model_that_shows_no_attention_stands_beside_one_that_does(
    text: Path, tokenizer: Any, reference_folder: Path, tmp_path: Path
) -> None:
    model = build("mamba", vocab_size=300)
    found = inheritune.analyze(
        [reference_folder, model], text=text, tokenizer=tokenizer, out=tmp_path / "out", **SMALL
    ).to_json()
    assert found["models"][1]["maps"] is None
    assert [file.name for file in (tmp_path / "out").glob("*.npz")] == ["maps-0.npz"]
    assert "no attention weights" in (tmp_path / "out" / "analysis.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tau": 1.0}, r"tau: got 1; give shares"),
        ({"tau": []}, r"tau: got nothing"),
        ({"sequences": 0}, "--sequences: got 0; give 1 or more"),
        ({"dtype": "int8"}, "--dtype: got 'int8'; legal are"),
        ({"text": ()}, "text: none given; give --text or --data"),
        ({"data": "data"}, "text: both text and data"),
        ({"models": []}, "models: none given"),
        ({"sequence_length": 65}, "64 positions"),
    ],
)
def test_wrong_input(changes: dict[str, Any], words: str, text: Path, reference_folder: Path, tmp_path: Path) -> None:
    given = {"models": Reference(path=str(reference_folder)), "text": text, "out": tmp_path / "out", **SMALL} | changes
    with pytest.raises(InputError, match=words):
        inheritune.analyze(**given)
    assert list(tmp_path.iterdir()) == []


def test_on_a_cpu_that_has_it_products_for_losses_alone_are_in_bfloat16(
    text: Path, reference_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention and what is measured of it stay those of float32; losses and gradients are within 2 %."""
    able = {"avx512_bf16": False, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    quick = inheritune.analyze(reference_folder, text=text, **SMALL).to_json()
    exact = inheritune.analyze(reference_folder, text=text, dtype="float32", **SMALL).to_json()
    able["amx_bf16"] = False
    without = inheritune.analyze(reference_folder, text=text, **SMALL).to_json()
    assert [one["loss_precision"] for one in (quick, exact, without)] == ["bfloat16", "float32", "float32"]
    (quick_model,), (exact_model,), (plain,) = quick["models"], exact["models"], without["models"]
    assert plain["blocks"] == exact_model["blocks"]
    assert quick_model["loss"]["mean"] != exact_model["loss"]["mean"]
    for quick_block, block in zip(quick_model["blocks"], exact_model["blocks"], strict=True):
        assert quick_block["attention"] == block["attention"]
        assert quick_block["influence"] == block["influence"]
        assert quick_block["depth_loss"]["mean"] == pytest.approx(block["depth_loss"]["mean"], rel=0.02)
        for kind in ("query", "key"):
            assert quick_block["gradients"][kind] == pytest.approx(block["gradients"][kind], rel=0.02)


def test_a_loaded_model_needs_a_tokenizer_for_text(text: Path) -> None:
    with pytest.raises(InputError, match="tokenizer: a loaded model comes without one; give the tokenizer"):
        inheritune.analyze(build("llama"), text=text, **SMALL)


def test_a_vocabulary_that_does_not_fit_is_an_error(data: Path) -> None:
    with pytest.raises(InputError, match="the model embeds 67"):
        inheritune.analyze(build("llama"), data=data, **SMALL)
