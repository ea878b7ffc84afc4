"""nanoGPT's and datatrove's token files, used where they are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inheritune import runtime
from inheritune.data import adopt, check_tokenizer, find_data, nanogpt_files, open_data, open_prepared
from inheritune.errors import InputError
from inheritune.recipe import TokenFiles


def write(file: Path, *tokens: int, dtype: str = "<u2") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.array(tokens, dtype).tofile(file)
    return file


def nanogpt(folder: Path) -> Path:
    write(folder / "train.bin", *range(200), 0)
    write(folder / "val.bin", *range(30), 0)
    return folder


def test_nanogpts_folder(tmp_path: Path, tokenizer: Any) -> None:
    files = nanogpt_files(nanogpt(tmp_path / "open[web]text"))  # a name that is no pattern
    assert files is not None
    made = adopt(files, tokenizer, tmp_path / "data")
    assert made.tokens("train").read().tolist() == [*range(200), 0]
    assert made.tokens("validation").read().tolist() == [*range(30), 0]
    assert made.manifest["documents"] == {"train": 2, "validation": 2}
    assert made.manifest["largest_token"] == 199
    check_tokenizer(made, tokenizer, "here")
    open_prepared(tmp_path / "data").verify()
    content = bytearray((tmp_path / "open[web]text" / "train.bin").read_bytes())
    (tmp_path / "open[web]text" / "train.bin").write_bytes(content[:-2] + b"\1\0")
    with pytest.raises(
        InputError, match=r"train\.bin: changed since .*; bring the file back as it was, or start again"
    ):
        open_prepared(tmp_path / "data").verify()


def test_a_prepared_folder_is_not_nanogpts(tmp_path: Path) -> None:
    (nanogpt(tmp_path) / "manifest.json").write_text("{}")
    assert nanogpt_files(tmp_path) is None
    assert nanogpt_files(tmp_path / "nowhere") is None


def test_opened_without_a_folder_for_evaluation(tmp_path: Path) -> None:
    found = open_data(nanogpt(tmp_path), runtime.start("cpu"), 300, None)
    assert found.tokens("validation").read().tolist() == [*range(30), 0]
    with pytest.raises(InputError, match="name the tokenizer that made them; give that tokenizer"):
        _ = found.end_of_text
    with pytest.raises(InputError, match=r"train\.bin: has token 199, the tokenizer has 199"):
        open_data(tmp_path, runtime.start("cpu"), 199, None)
    write(tmp_path / "val.bin")
    with pytest.raises(InputError, match=r"val\.bin: is empty"):
        find_data(tmp_path)


def test_datatroves_own_files(tmp_path: Path, tokenizer: Any) -> None:
    """Written by datatrove, with the .metadata that it writes, in both widths."""
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    for size, name in ((2, "two"), (4, "four")):
        for split, rows in (("train", [[5, 6, 0], [7, 0]]), ("validation", [[8, 9, 0]])):
            file = TokenizedFile(
                str(tmp_path / name), f"00000_{split}.ds", save_final_metadata=True, tokenizer_name_or_path="t", token_size=size
            )  # fmt: skip
            for row in rows:
                file.write(row, None)
            file.close()
        files = TokenFiles(
            train=[str(tmp_path / name / "*train.ds")], validation=[str(tmp_path / name / "*validation.ds")]
        )
        for place in (tmp_path / name).glob("*.index"):
            place.unlink()  # documents end at end-of-text; no index is needed
        made = adopt(files, tokenizer, tmp_path / f"data {name}")
        assert made.manifest["dtype"] == {2: "uint16", 4: "uint32"}[size]
        assert made.tokens("train").read().tolist() == [5, 6, 0, 7, 0]
        assert made.tokens("validation").read().tolist() == [8, 9, 0]
        assert made.manifest["documents"] == {"train": 2, "validation": 1}
        assert {Path(file).parent for file in made.checksums} == {tmp_path / name}  # nothing was copied


def test_files_of_a_pattern_come_by_name(tmp_path: Path, tokenizer: Any) -> None:
    for number in (2, 0, 1):
        write(tmp_path / f"t{number}.ds", number + 10)
    write(tmp_path / "v.ds", 3)
    made = adopt(
        TokenFiles(train=[str(tmp_path / "t*.ds")], validation=[str(tmp_path / "v.ds")]), tokenizer, tmp_path / "d"
    )
    assert made.tokens("train").read().tolist() == [10, 11, 12]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (b"\1\0\2", r"a\.bin: has 3 bytes, a token has 2; give a whole file of uint16"),
        (b"", r"a\.bin: is empty"),
        (
            b"\xff\xff",
            r"a\.bin: has token 65535, the tokenizer has 300; give files that the reference's tokenizer made",
        ),
        (None, r"data\.tokens\.train: no such file: .*a\.bin; correct the path"),
    ],
)
def test_bad_bin_files(tmp_path: Path, tokenizer: Any, train: bytes | None, words: str) -> None:
    if train is not None:
        (tmp_path / "a.bin").write_bytes(train)
    write(tmp_path / "b.bin", 1, 2)
    files = TokenFiles(train=[str(tmp_path / "a.bin")], validation=[str(tmp_path / "b.bin")])
    with pytest.raises(InputError, match=words):
        adopt(files, tokenizer, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_bad_mixtures(tmp_path: Path, tokenizer: Any) -> None:
    narrow, wide = write(tmp_path / "n.ds", 1, 2), write(tmp_path / "w.ds", 1, 2, dtype="<u4")
    (tmp_path / "w.ds.metadata").write_text("t|4\n2\n2 T")
    for train, validation, words in (
        (narrow, wide, r"w\.ds: has uint32 tokens, .*n\.ds has uint16"),
        (narrow, narrow, r"n\.ds: is named twice"),
        (write(tmp_path / "x.tok", 1), narrow, r"x\.tok: no token file"),
    ):
        with pytest.raises(InputError, match=words):
            adopt(TokenFiles(train=[str(train)], validation=[str(validation)]), tokenizer, tmp_path / "data")
    os.truncate(wide, 6)
    with pytest.raises(InputError, match=r"w\.ds: has 6 bytes, a token has 4"):
        adopt(TokenFiles(train=[str(wide)], validation=[str(narrow)]), tokenizer, tmp_path / "data")
    (tmp_path / "w.ds.metadata").write_text("t|3\n")
    with pytest.raises(InputError, match=r"w\.ds\.metadata: declares .3. bytes a token"):
        adopt(TokenFiles(train=[str(wide)], validation=[str(narrow)]), tokenizer, tmp_path / "data")
