"""The recipe's sources, and the recipes that come with the project."""

from pathlib import Path

import pytest
import yaml

from inheritune.recipe import Data, Size, Source, dump_recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes_of_the_project_pass_and_their_resolved_form_too(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file)
    (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_the_paper_s_mixture() -> None:
    """RedPajama's published weights, in per cent, and the batch of 131K tokens."""
    recipe = load_recipe(RECIPES / "openllama-1.5b.yaml")
    weights = {source.name: source.weight for source in recipe.data.sources}
    assert weights == {
        "CommonCrawl": 67, "C4": 15, "GitHub": 4.5, "Wikipedia": 4.5, "Books": 4.5, "ArXiv": 2.5, "StackExchange": 2,
    }  # fmt: skip
    assert sum(weight or 0 for weight in weights.values()) == 100
    assert (recipe.inherit.layers, recipe.train.batch_tokens, recipe.data.size) == (13, 131_072, Size(1e9, "tokens"))


@pytest.mark.parametrize(
    "source",
    [
        {"path": "a", "document": "2K characters", "limit": "1M tokens", "on_error": "skip", "include": ["*.py"]},
        {"dataset": "a/b", "config": "c", "split": "d", "revision": "e", "buffer": 7, "text_key": "f"},
        {"path": "s3://bucket/folder/*.parquet"},
    ],
)
def test_what_is_written_out_reads_back(source: dict[str, object]) -> None:
    made = Data.model_validate({"sources": [source]})
    assert Data.model_validate(yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json")))) == made


def test_titles() -> None:
    assert [Source(path="a").title, Source(dataset="b/c").title, Source(path="a", name="d").title] == ["a", "b/c", "d"]
