"""Whether token files hold two or four bytes a token, and where they begin: shown by the files, said, or asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inheritune import runtime
from inheritune.cli import main
from inheritune.data import adopt, nanogpt_files, open_data, open_prepared, typed, write_nanogpt
from inheritune.errors import InputError
from inheritune.recipe import TokenFiles

TOKENS = np.random.default_rng(1).integers(0, 300, 400)


def files(folder: Path, train: Any, validation: Any, dtype: str | None = None, kind: str = "bin") -> TokenFiles:
    """Raw files of arrays, in the arrays' own types."""
    for name, array in (("train", train), ("val", validation)):
        np.asarray(array).tofile(folder / f"{name}.{kind}")
    return TokenFiles(train=[str(folder / f"train.{kind}")], validation=[str(folder / f"val.{kind}")], dtype=dtype)


def types(of: TokenFiles, vocabulary: int) -> set[str | None]:
    return {one.dtype for each in typed(of, vocabulary).values() for one in each}


@pytest.mark.parametrize("vocabulary", [65, 300, 50257, 65536, 65537, 128256, 262144])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("kind", ["bin", "ds"])
def test_no_file_is_read_in_the_wrong_type(tmp_path: Path, vocabulary: int, dtype: str, kind: str) -> None:
    """Tokens of a vocabulary, in both types: either the right one is found, or the file is refused."""
    tokens = np.random.default_rng(vocabulary).integers(0, min(vocabulary, np.iinfo(dtype).max), 3000).astype(dtype)
    of = files(tmp_path, tokens, tokens[:501], kind=kind)
    if dtype == "uint16" and vocabulary > 65536:
        with pytest.raises(InputError, match="seems to hold uint16 tokens, but a vocabulary of"):
            typed(of, vocabulary)
    else:
        assert types(of, vocabulary) == {dtype}


def test_the_largest_token_is_never_misread(tmp_path: Path, tokenizer: Any) -> None:
    """A file for 128,256 entries, given to a tokenizer of 300: not as tokens below 65,536."""
    large = np.random.default_rng(2).integers(0, 128256, 3000).astype(np.uint32)
    with pytest.raises(InputError, match=r"train\.bin: has token 12\d{4}, the tokenizer has 300; .*read as uint32"):
        adopt(files(tmp_path, large, large[:50]), tokenizer, tmp_path / "data")
    found = open_data(tmp_path, runtime.start("cpu"), 128256, None)
    assert found.tokens("train").read().tolist() == large.tolist()
    assert found.manifest["dtype"] == "uint32"
    with pytest.raises(InputError, match="its tokens are uint32"):
        write_nanogpt(found, tmp_path / "nano")


def test_four_bytes_for_a_small_vocabulary(tmp_path: Path, tokenizer: Any) -> None:
    made = adopt(files(tmp_path, TOKENS.astype(np.uint32), TOKENS[:40].astype(np.uint32)), tokenizer, tmp_path / "data")
    assert made.tokens("train").read().tolist() == TOKENS.tolist()
    assert made.tokens("validation").read().tolist() == TOKENS[:40].tolist()


@pytest.mark.parametrize("tokens", [[5, 0], [0, 0, 0, 0] * 100, [7, 0] * 10])
def test_what_nothing_shows_must_be_said(tmp_path: Path, tokenizer: Any, tokens: list[int]) -> None:
    made = np.array(tokens, np.uint16)
    with pytest.raises(InputError, match=r"may be uint16 or uint32: .*; give it as `data\.tokens\.dtype`"):
        adopt(files(tmp_path, made, made), tokenizer, tmp_path / "data")
    for dtype in ("uint16", "uint32"):
        found = adopt(files(tmp_path, made, made, dtype), tokenizer, tmp_path / dtype)
        assert found.tokens("train").read().tolist() == made.view(dtype).tolist()
    # One file that shows it is enough, as all have the same type.
    clear = np.arange(100, dtype=np.uint16)
    assert types(files(tmp_path, clear, made), 300) == {"uint16"}
    assert types(files(tmp_path, clear.astype(np.uint32), made), 300) == {"uint32"}


def test_what_is_said_and_cannot_be(tmp_path: Path) -> None:
    narrow = TOKENS.astype(np.uint16)
    with pytest.raises(InputError, match="holds uint16 tokens, but a vocabulary of 128,256 needs uint32"):
        typed(files(tmp_path, narrow, narrow, "uint16"), 128256)
    with pytest.raises(InputError, match=r"val\.bin: has 6 bytes, a token has 4; give a whole file of uint32"):
        typed(files(tmp_path, narrow, narrow[:3], "uint32"), 300)
    with pytest.raises(InputError, match=r"val\.bin: has uint32 tokens, .*train\.bin has uint16"):
        typed(files(tmp_path, narrow, TOKENS.astype(np.uint32)), 300)
    (tmp_path / "train.ds.metadata").write_text("t|2\n")
    with pytest.raises(InputError, match=r"train\.ds: declares uint16 tokens, and data\.tokens\.dtype is"):
        typed(files(tmp_path, narrow, narrow, "uint32", kind="ds"), 300)
    with pytest.raises(InputError, match="holds uint16 tokens, but a vocabulary of 128,256 needs uint32"):
        typed(files(tmp_path, narrow, narrow, kind="ds"), 128256)


def llm_c(file: Path, tokens: Any, magic: int, version: int, dtype: str) -> Path:
    """As llm.c's own script writes it: 256 int32, then the tokens."""
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens)
    file.write_bytes(header.tobytes() + np.asarray(tokens).astype(dtype).tobytes())
    return file


@pytest.mark.parametrize(("magic", "version", "dtype"), [(20240520, 1, "uint16"), (20240801, 7, "uint32")])
def test_files_of_llm_c(tmp_path: Path, tokenizer: Any, magic: int, version: int, dtype: str) -> None:
    parts = [
        llm_c(tmp_path / f"train_{n}.bin", TOKENS[n * 100 : n * 100 + 100], magic, version, dtype) for n in range(4)
    ]
    held = llm_c(tmp_path / "val.bin", TOKENS[:30], magic, version, dtype)
    of = TokenFiles(train=[str(tmp_path / "train_*.bin")], validation=[str(held)])
    made = adopt(of, tokenizer, tmp_path / "data")
    assert made.manifest["dtype"] == dtype
    row = made.tokens("train")
    assert row.read().tolist() == TOKENS.tolist()  # over the files' ends
    assert row.read(95, 210).tolist() == TOKENS[95:305].tolist()
    assert row.rows(np.array([0, 99, 350]), 40).tolist() == [TOKENS[n : n + 40].tolist() for n in (0, 99, 350)]
    open_prepared(tmp_path / "data").verify()
    if dtype == "uint16":
        write_nanogpt(made, tmp_path / "nano")
        assert np.fromfile(tmp_path / "nano" / "train.bin", np.uint16).tolist() == TOKENS.tolist()
    content = parts[0].read_bytes()
    parts[0].write_bytes(content[:-4])
    with pytest.raises(
        InputError, match=r"train_0\.bin: has .* bytes, and its llm\.c header declares 100 uint.. tokens"
    ):
        typed(of, 300)
    llm_c(parts[0], TOKENS, magic, 3, dtype)
    with pytest.raises(
        InputError, match=r"train_0\.bin: an llm\.c file of version 3, which is not known; write its tokens"
    ):
        typed(of, 300)


def test_numpys_files(tmp_path: Path, tokenizer: Any) -> None:
    for dtype in ("uint16", "uint32"):
        np.save(tmp_path / "train.npy", TOKENS.astype(dtype))
        np.save(tmp_path / "val.npy", TOKENS[:33].astype(dtype))
        of = TokenFiles(train=[str(tmp_path / "train.npy")], validation=[str(tmp_path / "val.npy")])
        made = adopt(of, tokenizer, tmp_path / dtype)
        assert made.tokens("train").read().tolist() == TOKENS.tolist()
        assert made.tokens("validation").read(3, 9).tolist() == TOKENS[3:12].tolist()
    for array in (TOKENS, TOKENS.astype(">u2"), TOKENS.astype(np.uint16).reshape(20, 20), TOKENS.astype(float)):
        np.save(tmp_path / "train.npy", array)
        with pytest.raises(
            InputError, match=r"train\.npy: an array of .*, needed are uint16 or uint32 in one; convert"
        ):
            typed(of, 300)
    np.save(tmp_path / "train.npy", TOKENS.reshape(20, 20))
    with pytest.raises(InputError) as error:
        typed(of, 300)
    command = str(error.value).partition("convert it: ")[2].partition(" in Python")[0]
    folder = str(tmp_path)
    exec(command.replace("('train", f"('{folder}/train"), {"numpy": np})  # the remedy works
    assert np.fromfile(tmp_path / "train.bin", np.uint16).tolist() == TOKENS.tolist()
    np.save(tmp_path / "train.npy", TOKENS.astype(np.uint16))
    (tmp_path / "train.npy").write_bytes((tmp_path / "train.npy").read_bytes()[:-2])
    with pytest.raises(InputError, match="its header declares 400 tokens"):
        typed(of, 300)
    (tmp_path / "train.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00broken header   ")
    with pytest.raises(InputError, match=r"a damaged \.npy file"):
        typed(of, 300)


def test_said_on_the_command_line(
    tmp_path: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str], write_recipe: Any
) -> None:
    """For a folder that is given without a recipe, and for a recipe with token files."""
    source = tmp_path / "nano"
    source.mkdir()
    files(source, np.array([7, 0] * 10, np.uint16), np.array([9, 0] * 10, np.uint16))
    words = ["--tokenizer", str(reference_folder), "--out", str(tmp_path / "data"), "--json"]
    assert main(["prepare", str(source), "--dtype", "uint32", *words]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == {"train": 10, "validation": 10}
    assert open_prepared(tmp_path / "data").tokens("train").read().tolist() == [7] * 10
    for wrong, expected in (
        (["--dtype", "uint8"], "legal are uint16 and uint32"),
        (["--dtype", "uint32", "--size", "9 tokens"], "--size does not go with this"),
        (["--dtype", "uint32", "--encoding", "auto"], "--encoding does not go with this"),
    ):
        assert main(["prepare", str(source), *wrong, *words]) == 2
        assert expected in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "data"), "--dtype", "uint32", *words]) == 2
    assert "is for a folder with train.bin and val.bin" in capsys.readouterr().err
    tokens = {"train": [str(source / "train.bin")], "validation": [str(source / "val.bin")], "dtype": "uint16"}
    recipe = write_recipe(
        {"reference": str(reference_folder), "data": {"tokens": tokens}, "train": {"length": "1 steps", "batch": "1 sequences", "sequence_length": 4}}
    )  # fmt: skip
    assert main(["prepare", str(recipe), "--out", str(tmp_path / "other"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == {"train": 20, "validation": 20}
    assert nanogpt_files(source) is not None
