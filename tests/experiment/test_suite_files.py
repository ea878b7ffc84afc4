"""The suites that come with the project: each is read, and its arms are planned on references of the same depths."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from inheritune.experiment import Suite, load_suite
from inheritune.experiment.checks import plan_checked as plan
from inheritune.runtime import Runtime
from tiny_suites import without_models

SUITES = Path(__file__).parents[2] / "recipes" / "suites"
FILES = sorted(SUITES.glob("*.yaml"))
OF_THE_ISSUE = (
    "table-5", "warm-start", "sub-modules", "lazy-layers", "distillation", "extended", "fineweb-edu", "which-blocks",
    "low-data", "data", "hyper-parameters",
)  # fmt: skip

LLAMA_BLOCKS = {
    "low-data.yaml": 26,
    "lazy-layers-smollm2.yaml": 30,
    "recovery-smollm2.yaml": 30,
}  # suites whose reference is downloaded


def narrow(file: Path, text: Path) -> Suite:
    """A suite with its reference's depth and heads, but hardly any width, so that planning takes no time; and a text."""
    words = []
    if file.name in LLAMA_BLOCKS:
        llama = {"model_type": "llama", "num_hidden_layers": LLAMA_BLOCKS[file.name], "hidden_size": 16}
        llama |= {"intermediate_size": 16, "num_attention_heads": 2}
        words = [f"reference={{train: {{model: {llama}, tokenizer: {{vocabulary: 300}}}}}}"]
    elif file.stem.startswith("shapes"):
        sizes = {"hidden_size": 16, "intermediate_size": 480}
        words = [*(f"reference.train.model.{key}={size}" for key, size in sizes.items())]
        words.append("reference.train.tokenizer={vocabulary: 300}")
    else:
        heads = load_suite(file).reference.train.model["n_head"]  # type: ignore[union-attr]
        words = [f"reference.train.model.n_embd={2 * heads}", "reference.train.tokenizer={vocabulary: 300}"]
    return load_suite(file, [*words, *without_models(file), f"data.sources=[{{path: {text}}}]"])


@pytest.mark.long
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_suite_can_be_planned(file: Path, text: Path) -> None:
    suite = narrow(file, text)
    planned = plan(suite, Runtime("cpu", 1))
    assert {arm.name for arm in planned} == {arm.name for arm in suite.arms}
    for arm in planned:
        assert arm.settings.allow_unequal or arm.training.length == suite.train.length or arm.settings.data, arm.name


def test_each_is_there_at_the_papers_size_and_for_two_cores() -> None:
    stems = {file.stem for file in FILES}
    for name in OF_THE_ISSUE:
        assert f"{name}-2-cores" in stems
        assert any(stem == name or stem.startswith(f"{name}-m") for stem in stems), name


def test_the_small_suites_share_one_reference() -> None:
    def basis(file: Path) -> Any:
        suite = load_suite(file)
        return suite.reference, suite.data, suite.seed, suite.train.batch, suite.evaluate

    # shapes has one whose widths can all be chosen
    small = [file for file in FILES if file.stem.endswith("2-cores") and not file.stem.startswith("shapes")]
    assert len(small) == len(OF_THE_ISSUE)
    assert all(basis(file) == basis(small[0]) for file in small)


def test_settings_are_the_papers() -> None:
    """PAPER.md: medium 24 x 1024 x 16, rate 3e-4, 394K tokens a step, 100K steps, warm-up 2K, cosine to 1e-5."""
    suite = load_suite(SUITES / "table-5-medium.yaml")
    model = suite.reference.train.model  # type: ignore[union-attr]
    assert (model["n_layer"], model["n_embd"], model["n_head"]) == (24, 1024, 16)
    train = suite.train
    assert (train.optimizer.learning_rate, train.optimizer.betas, train.optimizer.clip) == (3e-4, (0.9, 0.95), 1.0)
    assert train.batch_tokens == 393_216
    assert train.steps(0) == 100_000
    assert train.warm_up_steps(100_000) == 2000
    for stem, rate in (("medium", 3e-4), ("large", 2e-4), ("xlarge", 1.5e-4)):
        settings = load_suite(SUITES / f"table-5-{stem}.yaml").train
        assert settings.optimizer.learning_rate == rate
        assert settings.optimizer.learning_rate * settings.schedule.final == pytest.approx(1e-5, rel=2e-3)


def test_published_figures_are_the_papers() -> None:
    values = yaml.safe_load((SUITES / "table-5-large.yaml").read_text(encoding="utf-8"))["published"]["values"]
    assert values["reference"] == 2.85
    assert (values["random"], values["inherit"], values["half width"]) == (2.97, 2.80, 3.06)
