"""The wheel in an environment of its own, with the locked versions of what it needs: the program answers and inherits."""

import sys
import zipfile
from pathlib import Path

import pytest
from other_docs import ROOT, run

import inheritune


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the source archive, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--outdir", folder)
    assert [file.name for file in folder.glob("*.tar.gz")] == [f"inheritune-{inheritune.__version__}.tar.gz"]
    (found,) = folder.glob("*.whl")
    return found


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (place,) = [name for name in names if name.endswith("METADATA")]
        metadata = opened.read(place).decode()
    source = ROOT / "src"
    tracked = {
        file.relative_to(source).as_posix()
        for file in (source / "inheritune").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert tracked == {name for name in names if ".dist-info/" not in name}
    assert "License-Expression: Apache-2.0" in metadata
    assert "Provides-Extra: all" in metadata
    assert "Programming Language :: Python :: 3.13" in metadata
    assert "# inheritune" in metadata  # README.md


@pytest.mark.long
def test_it_works_in_a_clean_environment(wheel: Path, reference_folder: Path, tmp_path: Path) -> None:
    run("-m", "venv", tmp_path / "venv", python=Path(sys.executable))
    python = tmp_path / "venv" / "bin" / "python"
    run("-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel, python=python)
    assert "inheritune" in run("-m", "inheritune", "--version", python=python, cwd=tmp_path)
    assert "Start here" in run("-m", "inheritune", "--help", python=python, cwd=tmp_path)
    run("-m", "inheritune", "inherit", reference_folder, "small", "--layers", "2", python=python, cwd=tmp_path)
    code = "from transformers import AutoModelForCausalLM as M; print(len(M.from_pretrained('small').model.layers))"
    assert run("-c", code, python=python, cwd=tmp_path).split() == ["2"]
