"""Cards of models from strangers: nothing in them stops a run, gets into a card unescaped, or copies a file of others."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from pydantic import TypeAdapter
from run_summary import write_summary

import inheritune
from conftest import read_json, tiny_recipe, weights
from inheritune import card
from inheritune.arch import Readers
from inheritune.card.origin import UNKNOWN, Origin, origin_of
from inheritune.card.text import Card, render
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import Recipe, Reference

READ = Readers("llama", "", eager=False)
EVIL = "x\n---\n\n# Owned\n<script>alert(1)</script> [click](javascript:alert(1)) \x1b[31m\u202e"
VALUES = [5, 5.5, True, None, [], {}, [5], {"a": 1}, EVIL, [EVIL], "a" * 500, ["en"] * 500, [["en"]], "2024-01-01"]
FIELDS = ["license", "license_name", "license_link", "language", "base_model", "tags", "datasets", "pipeline_tag"]


@pytest.fixture
def large(reference_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference_folder, tmp_path / "large"))


def write_card(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(fields)}---\n# Large\n", encoding="utf-8")


def check_harmless(text: str, title: str = "# ") -> dict[str, Any]:
    """The metadata of a card that has no heading, tag, link or character of `EVIL` in force."""
    for evil in ("\n# Owned", "<script", "](javascript", "\x1b", "\u202e"):
        assert evil not in text.replace("\\<script", "").replace("\\](javascript", "")
    found = yaml.safe_load(text.split("---\n")[1])
    assert ModelCard(text).data.to_dict() == found
    assert text.split("---\n", 2)[2].lstrip().startswith(title)
    return dict(found)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_any_kind_is_taken_or_left_out_and_said(field: str, large: Path) -> None:
    for value in VALUES:
        write_card(large, {"license": "mit", "tags": ["inheritune"], field: value})
        origin = origin_of(Reference(path=str(large)))
        found = check_harmless(render(Card("t", "l", origin, card.text.lineage_rows(origin, 4, "1M"), READ)))
        assert isinstance(found["license"], str)
        assert TypeAdapter(Origin).validate_json(json.dumps(asdict(origin))) == origin
        if (
            isinstance(value, int | float | dict)
            and field in FIELDS[:5]
            and not (field == "language" and value is False)
        ):
            assert f"the field {field} of README.md" in origin.left_out[0]


@pytest.mark.parametrize(
    "words",
    ["---\nlicense: [\n---\n", "---\n- a\n---\n", "---\n5\n---\n", "---\n" + "[" * 1500 + "\n---\n", "---\na: &a [*a]\n---\n",
     "---\n? {a: b}\n: c\n---\n", "---\nlicense: !!python/object:os.system x\n---\n", "---\na: 2024-99-99\n---\n",
     "---\na: " + "x" * 200_000 + "\n---\n", "\0\xff", "---\n*a\n---\n"],
)  # fmt: skip
def test_metadata_that_cannot_be_read_is_left_out(words: str, large: Path) -> None:
    (large / "README.md").write_text(words, encoding="utf-8")
    found = origin_of(Reference(path=str(large)))
    assert found.licence.id == UNKNOWN
    assert inheritune.inherit(large, 1, out=large.parent / "out")
    check_harmless((large.parent / "out" / "README.md").read_text())


def test_norwegian_is_a_language(large: Path) -> None:
    (large / "README.md").write_text("---\nlanguage: [en, no, pt-BR]\n---\n")
    assert origin_of(Reference(path=str(large))).language == ["en", "no", "pt-BR"]


@pytest.mark.long
def test_a_run_is_finished_whatever_the_card_says(large: Path, text: Path, tmp_path: Path) -> None:
    (large / "README.md").write_text("---\nlicense: 5\nbase_model: [1]\ntags: 7\n---\n")
    recipe = Recipe.model_validate(tiny_recipe(text, large) | {"controls": [], "grow": None})
    out = tmp_path / "run"
    run(recipe, out)
    summary = read_json(out / "summary.json")
    model = out / summary["result"]["model"]
    assert "the field license of README.md" in (model / "README.md").read_text().replace("\\_", "_")
    bits = weights(model)
    for damage in ('{"name": "x", "licence": {"id": 5}}', "[]", "{", '{"name": 5, "licence": {}}'):
        (out / "reference" / "origin.json").write_text(damage)
        (model / "README.md").unlink()
        run(recipe, out)  # as a start after one that failed
        assert (model / "README.md").is_file()
    assert weights(model) == bits


def test_a_card_that_fails_stops_nothing(
    large: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("no such card")

    monkeypatch.setattr("huggingface_hub.ModelCard.from_template", fail)
    inheritune.inherit(large, 1, out=tmp_path / "out")
    assert "card cannot be written (TypeError: no such card" in caplog.text
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_name_of_a_folder_is_only_text(large: Path, tmp_path: Path) -> None:
    place = large.rename(tmp_path / "a<b>[x](y) *z* `c` |d|\n# Owned \x1b[31m")
    assert main(["inherit", str(place), str(tmp_path / "out"), "--layers", "1"]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    check_harmless(text)
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert title == r"# 1 of 4 blocks of a\<b\>\[x\](y) \*z\* \`c\` \|d\| # Owned \\x1b\[31m, untrained" or (
        r"a\<b\>\[x\](y) \*z\* \`c\` \|d\| # Owned" in title and "\x1b" not in title
    )


class TestTerms:
    def test_gemmas_licence_and_its_notice_are_carried(self, large: Path, tmp_path: Path) -> None:
        write_card(large, {"license": "gemma", "license_name": "gemma-terms", "license_link": "GEMMA_TERMS.md"})
        (large / "GEMMA_TERMS.md").write_text("Terms\n")
        (large / "USE_POLICY.md").write_text("Policy\n")
        assert main(["inherit", str(large), str(tmp_path / "one"), "--layers", "2"]) == 0
        out = tmp_path / "one"
        found = check_harmless((out / "README.md").read_text())
        assert (found["license"], found["license_name"], found["license_link"]) == (
            "gemma", "gemma-terms", "GEMMA_TERMS.md",
        )  # fmt: skip
        assert (out / "GEMMA_TERMS.md").read_text() == "Terms\n"
        assert (out / "USE_POLICY.md").read_text() == "Policy\n"
        assert "Gemma Terms of Use found at ai.google.dev/gemma/terms" in (out / "NOTICE").read_text()
        assert main(["inherit", str(out), str(tmp_path / "two"), "--layers", "1"]) == 0  # and on, from model to model
        assert {"GEMMA_TERMS.md", "USE_POLICY.md", "NOTICE"} <= {file.name for file in (tmp_path / "two").iterdir()}

    def test_a_notice_of_its_own_is_kept(self, large: Path) -> None:
        write_card(large, {"license": "gemma"})
        (large / "Notice.txt").write_text("Mine\n")
        assert origin_of(Reference(path=str(large))).files == {"Notice.txt": "Mine\n"}


class TestLinks:
    @pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "USE_POLICY.md", "README.md"])
    def test_a_licence_or_card_that_is_a_link_is_left_out(self, name: str, large: Path, tmp_path: Path) -> None:
        (tmp_path / "shadow").write_text("root:secret")
        (large / name).symlink_to(tmp_path / "shadow")
        assert main(["inherit", str(large), str(tmp_path / "out"), "--layers", "1"]) == 0
        for file in (tmp_path / "out").iterdir():
            assert b"root:secret" not in file.read_bytes()
        assert "a link that leads out of its folder" in (tmp_path / "out" / "README.md").read_text()

    @pytest.mark.parametrize(
        "name", ["chat_template.jinja", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
                 "additional_chat_templates/tool.jinja", "config.json", "tokenizer.json"],
    )  # fmt: skip
    def test_what_would_be_copied_by_content_is_refused(
        self, name: str, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (large / name).parent.mkdir(exist_ok=True)
        if (large / name).exists():
            (large / name).rename(tmp_path / "secret")
        else:
            (tmp_path / "secret").write_text("{}" if name.endswith("json") else "root:secret")
        (large / name).symlink_to(tmp_path / "secret")
        assert main(["inherit", str(large), str(tmp_path / "out"), "--layers", "1"]) == 2
        said = capsys.readouterr().err
        assert f"{large / name}: is a link that leads out of the folder" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_the_hubs_cache_and_links_inside_go_on_working(self, large: Path, tmp_path: Path) -> None:
        (large / "LICENSE").write_text("Ours\n")
        model = tmp_path / "models--org--large"
        snapshot = model / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (model / "blobs").mkdir()
        for number, file in enumerate(sorted(large.iterdir())):
            file.rename(model / "blobs" / str(number))
            (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
        assert main(["inherit", str(snapshot), str(tmp_path / "out"), "--layers", "1"]) == 0
        assert (tmp_path / "out" / "LICENSE").read_text() == "Ours\n"
        assert (tmp_path / "out" / "tokenizer.json").is_file()
        found = card.prepare_upload(snapshot, "org/name")
        assert {"LICENSE", "model.safetensors"} <= {name for name, _ in found.files}

    @pytest.mark.parametrize("name", ["notes.txt", "LICENSE", "deep/er.txt"])
    def test_what_leads_out_of_the_folder_is_not_uploaded(self, name: str, large: Path, tmp_path: Path) -> None:
        (tmp_path / "shadow").write_text("root:secret")
        (large / name).parent.mkdir(exist_ok=True)
        (large / name).symlink_to(tmp_path / "shadow")
        with pytest.raises(InputError, match="is a link that leads out of the folder"):
            card.prepare_upload(large, "org/name")

    @pytest.mark.parametrize("model", ["../large", "/etc", 5, None])
    def test_a_summary_names_no_folder_outside_its_run(self, model: Any, large: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        write_summary(tmp_path / "run", model)
        with pytest.raises(InputError, match="summary"):
            card.prepare_upload(tmp_path / "run", "org/name")


@pytest.mark.parametrize(
    "words", ["hf_abcdefghijklmnopqrstuvwx", "https://user:PASS@host/x.txt", "AKIAABCDEFGHIJKLMNOP", "sk-abcdefghijklmnopqrst"]
)  # fmt: skip
def test_a_card_with_a_credential_is_not_uploaded(words: str, large: Path) -> None:
    (large / "README.md").write_text(f"# Mine\n\nTrained on {words}\n")
    with pytest.raises(InputError, match=r"README\.md: holds what looks like a credential") as caught:
        card.prepare_upload(large, "org/name")
    assert words not in str(caught.value)


def test_files_of_a_run_are_not_uploaded(large: Path) -> None:
    for name in ("recipe.yaml", "manifest.json", "request.json", "origin.json", "trackers.json"):
        (large / name).write_text("{}")
    found = card.prepare_upload(large, "org/name")
    assert not {"recipe.yaml", "manifest.json", "request.json", "origin.json", "trackers.json"} & set(dict(found.files))
    assert any("recipe.yaml" in note for note in found.notes)
