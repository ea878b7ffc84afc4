"""The commands as a stranger uses them."""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from conftest import tiny_recipe
from inheritune.cli import main
from inheritune.recipe import load_recipe
from processes import fresh_program, program


@pytest.mark.long
def test_the_stages_one_by_one(
    text: Path, reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: Any) -> dict[str, Any]:
        assert main([str(word) for word in words]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    prepared = call(
        "prepare", text, "--out", tmp_path / "data", "--tokenizer", reference_folder, "--size", "2K tokens",
        "--validation", "500 tokens", "--json",
    )  # fmt: skip
    assert prepared["tokens"]["train"] == 2000
    for _ in range(2):  # once more it is success, and changes nothing
        again = call("prepare", "--out", tmp_path / "data", "--nanogpt", tmp_path / "nano", "--json")
        assert again == prepared | {"nanogpt": str(tmp_path / "nano")}
    assert (tmp_path / "nano" / "train.bin").stat().st_size == 2 * 2000
    inherited = call("inherit", reference_folder, tmp_path / "small", "--layers", "0,2-3", "--json")
    assert inherited["blocks"] == [0, 2, 3]
    trained = call(
        "train", tmp_path / "small", tmp_path / "trained", "--data", tmp_path / "data", "--length", "4 steps", "--batch",
        "2 sequences", "--sequence-length", "16", "--optimizer.learning_rate=1e-3", "--schedule.name", "constant", "--json",
    )  # fmt: skip
    assert trained["steps"] == 4
    assert AutoModelForCausalLM.from_pretrained(trained["model"]).config.num_hidden_layers == 3
    request = json.loads((tmp_path / "trained" / "request.json").read_text())
    assert request["train"]["schedule"]["name"] == "constant"


def test_new_writes_a_recipe_and_does_not_write_over_one(
    reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    assert main(["new", str(reference_folder), str(path)]) == 0
    assert load_recipe(path).inherit.layers == 2
    assert "#" in path.read_text()
    assert main(["new", str(reference_folder), str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["new", str(reference_folder), str(tmp_path / "none.yaml"), "--text", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "none.yaml").exists()


def test_new_takes_the_size_of_the_text_into_account(reference_folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("word " * 8000)  # about 20,000 tokens of a vocabulary of 300
    path = tmp_path / "mine.yaml"
    assert main(["new", str(reference_folder), str(path), "--text", str(words)]) == 0
    made = load_recipe(path)
    assert made.data.sources[0].path == str(words)
    assert made.data.validation.count < 3000
    assert "about 19.4K tokens" in path.read_text()


@pytest.mark.long
def test_run_prints_a_table_and_json(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    done = program(
        "run", recipe, "--out", tmp_path / "out", "--train.length=2 steps", "--train.schedule.warm_up=1 steps"
    )
    assert done.returncode == 0, done.stderr
    assert "round 1" in done.stdout
    assert "atched" in done.stdout
    assert str(tmp_path / "out" / "report" / "index.html") in done.stdout
    assert all(len(line) <= 80 or "/" in line for line in done.stdout.splitlines())
    words = ["--out", str(tmp_path / "out"), "--train.length=2 steps", "--train.schedule.warm_up=1 steps", "--json"]
    assert main(["run", str(recipe), *words]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["model"]
    saved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert saved["train"]["length"] == "2 steps"
    assert saved["seed"] == 1


@pytest.mark.long
@pytest.mark.parametrize("command", [[], ["run"], ["new"], ["prepare"], ["inherit"], ["train"], ["export"], ["bench"]])
def test_every_command_has_help_without_torch(command: list[str]) -> None:
    code = f"import sys; from inheritune.cli import main; main({[*command, '--help']!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: inheritune" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, inheritune; inheritune.load_recipe; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.long
def test_help_answers_within_half_a_second() -> None:
    """Of a processor: how long it waits for one is not the program's doing."""
    code = (
        "import sys; from inheritune.cli import main; main(['--help']); print({'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fresh_program("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(took) < 0.5


def test_a_dry_run_does_one_step_and_leaves_nothing(
    text: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_recipe(text))
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 blocks (the deepest round): a step of 64 tokens takes" in said
    assert "peak memory" in said
    assert main(["run", str(recipe), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == 2
    assert found["tokens_per_second"] == pytest.approx(64 / found["seconds"])
    assert found["memory"]["peak_bytes"] > 10**7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


def test_the_plan_knows_the_rate_of_the_last_dry_run(
    text: Path, write_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = str(write_recipe(tiny_recipe(text))), tmp_path / "cache" / "inheritune"
    assert main(["run", recipe, "--dry-run"]) == 0
    assert "the measured rate cannot be remembered" in capsys.readouterr().err  # tests have no such folder
    monkeypatch.setenv("INHERITUNE_CACHE", str(cache))
    assert main(["plan", recipe, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"][-1]["name"] == "CPU"
    assert main(["run", recipe, "--dry-run", "--json"]) == 0
    trial = json.loads(capsys.readouterr().out)
    assert main(["plan", recipe, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    here = plan["devices"][-1]
    assert here["name"] == "CPU, measured"
    for key in ("least", "most"):
        assert here["hours"][key] == [trial["hours"][key]] * 2
    flops = max(each["flops_per_token"] for each in plan["trainings"] if each["name"].startswith("round"))
    assert here["flops_per_second"][0] == pytest.approx(flops * trial["tokens_per_second"])
    assert "the last dry run on this machine (2 blocks of" in plan["warnings"][-1]
    (file,) = cache.iterdir()
    for damaged in ("{", "[]", json.dumps(json.loads(file.read_text()) | {"host": "another"})):
        file.write_text(damaged)
        assert main(["plan", recipe, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["devices"][-1]["name"] == "CPU"


def test_a_dry_run_of_a_training(reference_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        str(reference_folder),
        str(tmp_path / "out"),
        "--data",
        str(tmp_path / "data"),
        "--length",
        "300 tokens",
    ]
    assert main([*words, "--sequence-length", "16", "--batch", "2 sequences", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "a step of 32 tokens takes" in said
    assert said.endswith("300 tokens asked for; 9 whole steps of 32 are 288\n")
    assert list(tmp_path.iterdir()) == []
