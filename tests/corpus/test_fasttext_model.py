from pathlib import Path

import pytest
from fasttext_file import write_classifier

from inheritune.corpus.filters.fasttext_model import read_labels
from inheritune.errors import InputError

WORDS = {
    "en": [f"word{number}" for number in range(300)],
    "de": [f"wort{number}" for number in range(300)],
    "ä ö": ["x"],
}

MANY = {f"label{number}": [f"word{number}"] for number in range(300)}  # fastText quantises 256 rows and more


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models as fastText itself writes them: plain, quantised with norms, quantised with its words cut down."""
    import fasttext

    folder = tmp_path_factory.mktemp("models")
    write_classifier(folder / "mine.bin", WORDS)
    write_classifier(folder / "many.bin", MANY)
    for name, how in {"plain": None, "norms": {"qnorm": True}, "output": {"qout": True}}.items():
        model = fasttext.FastText._FastText(str(folder / ("many.bin" if name == "output" else "mine.bin")))
        if how is not None:
            model.quantize(**how)
        model.save_model(str(folder / name))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["mine.bin", "plain", "norms", "output"])
def test_labels_are_those_that_fasttext_sees(files: dict[str, Path], name: str) -> None:
    from fasttext.FastText import _FastText

    labels = read_labels(files[name], "here")
    assert sorted(f"__label__{label}" for label in labels) == sorted(_FastText(str(files[name])).labels)
    assert labels == list(MANY if name == "output" else WORDS)


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "norms", "output"])
def test_every_shorter_file_is_refused(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    raw, cut = files[name].read_bytes(), tmp_path / "cut.bin"
    for length in [*range(0, 400, 3), *range(400, len(raw), 1 + len(raw) // 300), len(raw) - 1]:
        cut.write_bytes(raw[:length])
        with pytest.raises(InputError, match=r"^here: .*(was cut short|is not a fastText model)"):
            read_labels(cut, "here")


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "text.bin"
    other.write_text("nothing of the kind", encoding="utf-8")
    with pytest.raises(InputError, match="is not a fastText model"):
        read_labels(other, "here")
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        read_labels(tmp_path / "none.bin", "here")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        read_labels(tmp_path, "here")
    newer = write_classifier(tmp_path / "newer.bin", WORDS).read_bytes()
    other.write_bytes(newer[:4] + b"\x0d" + newer[5:])
    with pytest.raises(InputError, match="version 13 of fastText's format is not known"):
        read_labels(other, "here")
    with pytest.raises(InputError, match="no labels"):
        read_labels(write_classifier(other, {}), "here")
