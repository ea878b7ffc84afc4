"""Model cards: what they say, that the hub's own parser reads it, that nothing is made up, that a person's are kept."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from conftest import make_text, read_json, tiny_recipe, weights
from inheritune.arch import TRIED, Readers
from inheritune.card.origin import UNKNOWN, Licence, Origin, origin_of, origin_of_model
from inheritune.card.text import Card, datasets_of, metadata_of, render, tasks_table
from inheritune.cli import main
from inheritune.experiment import run
from inheritune.recipe import Recipe, Reference, Source
from inheritune.redaction import public
from inheritune.results import EvaluationResult

COMMIT = "0123456789abcdef0123456789abcdef01234567"
APACHE = "   Apache License\n   Version 2.0, January 2004\n   http://www.apache.org/licenses/\n"
STATED = "---\nlicense: other\nlicense_name: small\nlicense_link: LICENSE\nlanguage: [en, de]\n---\n# Large\n"
READ = Readers("llama", "", eager=False)


@pytest.fixture
def licensed(reference_folder: Path, tmp_path: Path) -> Path:
    """The reference in a folder of its own, with a card and a licence."""
    folder = Path(shutil.copytree(reference_folder, tmp_path / "large"))
    (folder / "README.md").write_text(STATED)
    (folder / "LICENSE").write_text("Do as you like on Sundays.\n")
    return folder


def in_the_cache(folder: Path, home: Path) -> Path:
    """A copy where the hub's client keeps a model of that revision."""
    place = home / "models--org--large" / "snapshots" / COMMIT
    return Path(shutil.copytree(folder, place))


def card_of(folder: Path) -> ModelCard:
    """The card as the hub's own parser has it; written out again, its metadata is the same."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert yaml.safe_load(ModelCard(str(card)).data.to_yaml()) == yaml.safe_load(text.split("---\n")[1])
    return card


class TestOrigins:
    def test_what_a_folder_states(self, licensed: Path) -> None:
        found = origin_of(Reference(path=str(licensed)))
        assert (found.name, found.hub_id, found.revision, found.made) == ("large", None, None, False)
        assert found.licence == Licence("other", "small", "LICENSE", "the reference's README.md")
        assert found.language == ["en", "de"]
        assert list(found.files) == ["LICENSE"]

    def test_a_folder_of_the_hubs_cache_has_its_id_and_commit(self, licensed: Path, tmp_path: Path) -> None:
        place = in_the_cache(licensed, tmp_path)
        found = origin_of(Reference(path=str(place)))
        assert (found.name, found.hub_id, found.revision) == ("org/large", "org/large", COMMIT)
        loaded = origin_of_model(AutoModelForCausalLM.from_pretrained(place))
        assert (loaded.hub_id, loaded.licence) == ("org/large", found.licence)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (APACHE, "apache-2.0"),
            ("MIT License\n\nCopyright X\n\nPermission is hereby granted, free of charge, to any person\n", "mit"),
            ("Our own terms\n", "other"),
        ],
    )
    def test_a_licence_file_alone(self, words: str, expected: str, licensed: Path) -> None:
        (licensed / "README.md").unlink()
        (licensed / "LICENSE").write_text(words)
        found = origin_of(Reference(path=str(licensed))).licence
        assert (found.id, found.source) == (expected, "the reference's file LICENSE")

    @pytest.mark.parametrize("card", [None, "# no metadata\n", "---\n[\n---\n", "---\nlicense: unknown\n---\n"])
    def test_what_nobody_states_is_unknown(self, card: str | None, licensed: Path) -> None:
        (licensed / "LICENSE").unlink()
        (licensed / "README.md").unlink()
        if card is not None:
            (licensed / "README.md").write_text(card)
        found = origin_of(Reference(path=str(licensed)))
        assert found.licence.id == UNKNOWN
        assert found.files == {}

    def test_a_gguf_file(self, tmp_path: Path) -> None:
        from gguf import GGUFWriter

        def write(name: str, **facts: str) -> Origin:
            writer = GGUFWriter(tmp_path / name, "llama")
            for key, value in facts.items():
                writer.add_string(f"general.{key.replace('__', '.')}", value)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return origin_of(Reference(path=str(tmp_path / name)))

        stated = write("one.gguf", license="apache-2.0", source__repo_url="https://huggingface.co/org/large")
        assert (stated.name, stated.hub_id, stated.licence.id) == ("one.gguf", "org/large", "apache-2.0")
        assert "general.license" in stated.licence.source
        silent = write("two.gguf", organization="org", repo_url="https://example.org/org/large")
        assert (silent.hub_id, silent.licence.id) == (None, "unknown")

    def test_a_model_in_memory_and_one_that_is_gone(self, reference_folder: Path, tmp_path: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(reference_folder)
        model.config.name_or_path = ""
        assert origin_of_model(model).name == "a model in memory"
        model.config.name_or_path = str(tmp_path / "gone")
        found = origin_of_model(model)
        assert (found.name, found.licence.id) == ("gone", UNKNOWN)


def test_metadata_names_only_what_is_known() -> None:
    unknown = metadata_of(Card("t", "l", Origin("large"), [], READ)).to_dict()
    assert unknown == {
        "license": "unknown", "tags": ["inheritune"], "library_name": "transformers", "pipeline_tag": "text-generation",
    }  # fmt: skip
    known = Card("t", "l", Origin("large", "org/large", language="en"), [], READ, datasets=("org/text",))
    found = metadata_of(known).to_dict()
    assert (found["base_model"], found["base_model_relation"]) == ("org/large", "finetune")
    assert (found["datasets"], found["language"]) == (["org/text"], "en")
    untrained = Card("t", "l", Origin("large", "org/large"), [], READ, trained=False)
    assert "base_model_relation" not in metadata_of(untrained).to_dict()
    assert ModelCard(render(known)).data.to_dict() == found


@pytest.mark.parametrize(
    ("readers", "said"),
    [
        (READ, f"tried: {TRIED[0]} and {TRIED[1]}, with the same logits from small models of type `llama`)."),
        (
            Readers("gemma2", "", eager=True),
            'In transformers 4, give `from_pretrained` also `attn_implementation="eager"`',
        ),
        (Readers("zaya", "it is so", eager=False), f"It needs transformers 5 (tried: {TRIED[1]}): it is so."),
    ],
)
def test_versions_of_transformers(readers: Readers, said: str) -> None:
    card = render(Card("t", "l", Origin("large"), [], readers))
    assert said in card.partition("## How to load it")[2]
    assert ("4.57" in card) == (readers.reason_for_5 == "")


def test_data_sets_and_folders() -> None:
    sources = [
        {"path": "hf://datasets/org/one@main/data/*.parquet"}, {"dataset": "org/two"}, {"path": "/home/me/private"},
        {"path": "hf://datasets/org/one/more"}, {"dataset": str(Path(__file__).parent)},
    ]  # fmt: skip
    assert datasets_of([Source.model_validate(source) for source in sources]) == ("org/one", "org/two")
    tree = {"a": ["/home/me/text", "~/text", "org/name", "hf://datasets/org/one"], "b": {"c": 1}}
    assert public(tree) == {"a": ["text", "text", "org/name", "hf://datasets/org/one"], "b": {"c": 1}}


def test_tasks_stand_beside_the_parent() -> None:
    def model(name: str, **tasks: Any) -> dict[str, Any]:
        return {"name": name, "path": name, "parameters": 9, "layers": 1, "tasks": {task: dict(zip(("metric", "shots", "value", "se"), cell, strict=True))
                                        for task, cell in tasks.items()}}  # fmt: skip

    found = {
        "format": 1, "text": None, "harness": {"version": "0.4.13", "limit": 100}, "published": [],
        "models": [
            model("reference", piqa=("acc", 0, 0.7, 0.01), wsc=("acc", 0, 0.5, None)),
            model("target", piqa=("acc", 0, 0.65, 0.02)),
        ],
    }  # fmt: skip
    lines = tasks_table(EvaluationResult.model_validate(found)).splitlines()
    assert lines[0] == "| task | reference | this model | metric | shots |"
    assert lines[2:4] == ["| piqa | 0.7000 ±0.0100 | 0.6500 ±0.0200 | acc | 0 |", "| wsc | 0.5000 |  | acc | 0 |"]
    assert "0.4.13, the first 100 examples" in lines[-1]
    assert tasks_table(EvaluationResult(text=None, harness=None, models=[], published=[])) == ""


class TestSingleCommands:
    def test_inherited_then_trained(self, licensed: Path, text: Path, tokenizer: Any, tmp_path: Path) -> None:
        place = in_the_cache(licensed, tmp_path)
        assert main(["inherit", str(place), str(tmp_path / "half"), "--layers", "2", "--choose", "last"]) == 0
        card = card_of(tmp_path / "half")
        assert card.data.to_dict() == {
            "base_model": "org/large", "license": "other", "license_name": "small", "license_link": "LICENSE",
            "language": ["en", "de"], "library_name": "transformers", "pipeline_tag": "text-generation",
            "tags": ["inheritune"],
        }  # fmt: skip
        for said in ("2 of 4 blocks of large, untrained", "has not been trained", COMMIT, "`last`", "Blocks 2-3 of"):
            assert said in card.text
        assert (tmp_path / "half" / "LICENSE").read_text() == "Do as you like on Sundays.\n"
        sources = {"sources": [{"path": str(text)}], "validation": "600 tokens"}
        inheritune.prepare(sources, tokenizer, tmp_path / "data")
        settings = {"length": "150 tokens", "batch": "4 sequences", "sequence_length": 16}
        _, found = inheritune.train(tmp_path / "half", tmp_path / "data", tmp_path / "out", settings=settings)
        card = card_of(tmp_path / "out" / "model")
        assert (card.data.base_model, card.data.license) == ("org/large", "other")
        assert card.data.base_model_relation == "finetune"
        steps = "2 steps of 64, sequences of 16; 22 more were asked for, and fill no step"
        for said in ("itself made of [org/large]", "2-3 of 4, inherited before", f"{found.val_loss:.4f}", steps):
            assert said in card.text
        assert "none of them from our training text" in card.text
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").config.num_hidden_layers == 2
        assert (tmp_path / "out" / "model" / "LICENSE").is_file()
        assert str(tmp_path) not in card.content  # no stranger learns of folders here

    def test_a_loaded_model(self, reference_folder: Path, tmp_path: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(reference_folder)
        inheritune.inherit(model, 2, submodules=["attention"], out=tmp_path / "out")
        card = card_of(tmp_path / "out")
        assert card.data.license == "unknown"
        assert "attention; the rest began anew" in card.text


@pytest.fixture(scope="module")
def finished(reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A run of two rounds over a licensed reference."""
    place = tmp_path_factory.mktemp("cards")
    large = Path(shutil.copytree(reference_folder, place / "large"))
    (large / "README.md").write_text(STATED)
    (large / "LICENSE").write_text(APACHE)
    tree = tiny_recipe(make_text(place / "private" / "text"), large)
    tree["grow"]["until"] = "max_layers"
    tree["inherit"] = {"layers": 1}  # chosen by trying
    recipe = Recipe.model_validate(tree)
    run(recipe, place / "run")
    return recipe, place / "run"


class TestRuns:
    def test_the_card_of_the_result(self, finished: tuple[Recipe, Path]) -> None:
        recipe, folder = finished
        summary = read_json(folder / "summary.json")
        result = summary["result"]
        place = folder / result["model"]
        card = card_of(place)
        assert card.data.license_name == "small"
        assert card.data.language == ["en", "de"]
        assert "base_model" not in card.data.to_dict()  # nothing says which one on the hub it is
        own = next(found for found in summary["rounds"] if found["model"] == result["model"])
        for said in (
            f"{result['layers']} of 4 blocks of large", f"{result['val_loss']:.4f} ±{result['val_loss_se']:.4f}",
            f"{summary['reference']['val_loss']:.4f}", f"{own['tokens']:,}", "`auto`, measured on 3,072 tokens",
            read_json(folder / "selection.json")["reason"], "the run's result", "control: random", "taken over from",
            "time of the whole run", "none of them from our training text", "this validation text may be among it",
        ):  # fmt: skip
            assert said in card.text, said
        block = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
        block["reference"]["path"], block["data"]["sources"][0]["path"] = (
            recipe.reference.path, recipe.data.sources[0].path,
        )  # fmt: skip
        assert Recipe.model_validate(block) == recipe
        assert str(folder.parent) not in card.content
        assert (place / "LICENSE").read_text() == APACHE
        AutoTokenizer.from_pretrained(place)
        assert AutoModelForCausalLM.from_pretrained(place).config.num_hidden_layers == result["layers"]

    def test_every_round_has_one_that_says_what_it_is(self, finished: tuple[Recipe, Path]) -> None:
        summary = read_json(finished[1] / "summary.json")
        said = [(finished[1] / found["model"] / "README.md").read_text() for found in summary["rounds"]]
        assert [text.count("; the run's result") for text in said].count(1) == 1
        assert [text.count("; not the run's result") for text in said].count(1) == 1

    def test_run_again_it_is_written_anew_and_a_persons_own_is_kept(
        self, finished: tuple[Recipe, Path], tmp_path: Path
    ) -> None:
        recipe, before = finished
        folder = Path(shutil.copytree(before, tmp_path / "run"))
        summary = read_json(folder / "summary.json")
        first, second = (folder / found["model"] for found in summary["rounds"])
        bits = weights(first)
        original = (first / "README.md").read_text()
        (first / "README.md").unlink()
        (second / "README.md").write_text("# Mine\n")
        run(recipe, folder)
        assert (first / "README.md").read_text() == original
        assert (second / "README.md").read_text() == "# Mine\n"
        assert weights(first) == bits

    @pytest.mark.long
    def test_a_reference_that_was_trained_for_it(self, text: Path, tmp_path: Path) -> None:
        tree = tiny_recipe(text) | {"controls": [], "grow": None}
        run(Recipe.model_validate(tree), tmp_path / "run")
        summary = read_json(tmp_path / "run" / "summary.json")
        card = card_of(tmp_path / "run" / summary["result"]["model"])
        assert card.data.license == "unknown"
        assert "for whoever ran it to state" in card.text
        assert "may be among it" not in card.text  # it was trained on the run's own training text
        assert "base_model" not in card.data.to_dict()
