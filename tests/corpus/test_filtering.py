import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fasttext_file import write_classifier

from inheritune.corpus.filters.base import check_filters, prepare_filters
from inheritune.errors import InputError
from inheritune.recipe import Data, check

DOCS = Path(__file__).parents[2] / "docs"
PROSE = (
    "The river rose in the night and it took the bridge with it. Nobody had seen it go, but all of them heard the "
    "timber break. In the morning the people of the valley came down to look at what was left of the road. "
)
MADE_UP = [
    PROSE,
    PROSE * 4,
    "\n".join(f"{PROSE} It was the year {year}." for year in range(1700, 1720)),
    "Short.",
    "word " * 300,
    "the # of # and # " * 60,
    "and then the man ... " * 40,
    "\n".join(f"- the item and number {number}" for number in range(60)),
    "\n".join(f"The line {number} ends with the words and ..." for number in range(60)),
    "12 34 56 the 78 of " * 40,
    "the of " + "pneumonoultramicroscopicsilicovolcanoconiosis " * 60,
    "a b c d the of and e f " * 40,
    "\n\n".join([PROSE] * 9),
    f"{PROSE}\nlorem ipsum dolor sit amet. {PROSE}",
    f"{PROSE}\nif (x) {{ y }}; and so on.\n{PROSE}",
    f"{PROSE}\nPlease enable Javascript.\nThis site uses cookies.\nHome\nTwo words.\n{PROSE * 2}[1] [citation needed]",
    f"{PROSE}\n{'x' * 1200} is a word.\n{PROSE * 2}",
    f"{PROSE * 2}\nA frobnicated thing is meant here.\n",
    f"{PROSE * 2}\nA Frob-Nicated thing is not.\n",
    "Der Fluss stieg in der Nacht und nahm die Brücke mit. Niemand hatte es gesehen, aber alle hörten das Holz. " * 4,
    "the IS_ALPHA word breaks the tokenizer of the library, and it is put right. " * 6,
    "\n\n".join(f"{number % 6}. {PROSE.strip()}" for number in range(7)),  # one paragraph of seven stood before
    "\n".join(f"{number % 20}. {PROSE.strip()}" for number in range(21)),  # one line of twenty-one
    "\u200b", "日本語の文章です。とても短い。", ". . . .\n" * 30, "naïve café — “quoted” and ‘single’. " * 20,
]  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Sections of the project's pages, and texts that are made to break one rule each."""
    sections = [part for page in sorted(DOCS.glob("[a-i]*.md")) for part in page.read_text("utf-8").split("\n## ")]
    return [section for section in sections if section.strip()][:40] + MADE_UP


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fastText classifier that tells English from German by the words of two short texts."""
    german = "der fluss stieg in der nacht und nahm die brücke mit niemand hatte es gesehen aber alle hörten das holz"
    words = {"en": sorted({*PROSE.lower().split()}), "de": sorted({*german.split()} - {"in"})}
    return write_classifier(tmp_path_factory.mktemp("model") / "model.bin", words)


def filters(*entries: Any) -> Any:
    return check(Data, {"sources": [{"path": "a"}], "filters": list(entries)}, "data").filters


def judged(entry: Any, texts: list[str], work: Path) -> list[tuple[str | None, str]]:
    """For each text why it goes (None: it stays), and what is left of it."""
    from datatrove.data import Document

    ((_, chosen),) = prepare_filters(filters(entry), work)
    removal_reason = chosen.build(work)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    return [(removal_reason(document), document.text) for document in documents]


def kept_by_datatrove(step: Any, texts: list[str], logs: Path) -> dict[int, str]:
    """What datatrove's own class leaves in a pipeline of its own: number and text of the documents that stay."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor

    kept: dict[int, str] = {}

    def collect(data: Any, rank: int, world_size: int) -> None:
        kept.update({int(document.id): document.text for document in data})

    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    LocalPipelineExecutor([documents, step, collect], tasks=1, workers=1, logging_dir=str(logs)).run()
    return kept


def plain(name: str, **settings: Any) -> Any:
    from datatrove.pipeline import filters as classes

    return getattr(classes, name)(**settings)


CASES: dict[str, tuple[Any, Any]] = {
    "gopher_quality": ("gopher_quality", lambda m: plain("GopherQualityFilter")),
    "gopher_quality, other limits": (
        {"filter": "gopher_quality", "min_words": 5, "max_words": 90, "min_word_length": None, "max_word_length": 6,
         "max_symbols": 0.01, "max_bullet_lines": None, "max_ellipsis_lines": 0.9, "min_alphabetic_words": 0.5,
         "min_stop_words": 1, "stop_words": ["river", "and"]},
        lambda m: plain("GopherQualityFilter", min_doc_words=5, max_doc_words=90, min_avg_word_length=None,
                        max_avg_word_length=6, max_symbol_word_ratio=0.01, max_bullet_lines_ratio=None,
                        max_ellipsis_lines_ratio=0.9, max_non_alpha_words_ratio=0.5, min_stop_words=1,
                        stop_words=["river", "and"]),
    ),
    "gopher_repetition": ("gopher_repetition", lambda m: plain("GopherRepetitionFilter")),
    "gopher_repetition, other limits": (
        {"filter": "gopher_repetition", "duplicate_lines": 0.05, "duplicate_paragraphs": None,
         "duplicate_line_characters": 0.9, "duplicate_paragraph_characters": None, "top_n_grams": {2: 0.05},
         "duplicate_n_grams": None},
        lambda m: plain("GopherRepetitionFilter", dup_line_frac=0.05, dup_para_frac=None, dup_line_char_frac=0.9,
                        dup_para_char_frac=None, top_n_grams=((2, 0.05),), dup_n_grams=()),
    ),
    "c4": ("c4", lambda m: plain("C4QualityFilter")),
    "c4, other limits": (
        {"filter": "c4", "end_punctuation": False, "min_words_per_line": None, "max_word_length": 12,
         "javascript": False, "policy": False, "citations": False, "lorem_ipsum": False, "curly_bracket": False,
         "min_sentences": 2, "by": "sentence"},
        lambda m: plain("C4QualityFilter", filter_no_terminal_punct=False, min_words_per_line=-1, max_word_length=12,
                        filter_javascript=False, filter_policy=False, remove_citations=False, filter_lorem_ipsum=False,
                        filter_curly_bracket=False, min_num_sentences=2, split_paragraph=False),
    ),
    "fineweb_quality": ("fineweb_quality", lambda m: plain("FineWebQualityFilter")),
    "fineweb_quality, other limits": (
        {"filter": "fineweb_quality", "min_punctuated_lines": 0.5, "max_short_lines": 0.3, "short_line": 60,
         "max_duplicate_characters": 0.5, "max_newlines": 0.02},
        lambda m: plain("FineWebQualityFilter", line_punct_thr=0.5, short_line_thr=0.3, short_line_length=60,
                        char_duplicates_ratio=0.5, new_line_ratio=0.02),
    ),
    "classifier, keep": (
        {"filter": "classifier", "model": None, "keep": {"de": 0.4}},
        lambda m: plain("FastTextClassifierFilter", model_url=str(m), keep_labels=[("de", 0.4)]),
    ),
    "classifier, remove paragraphs": (
        {"filter": "classifier", "model": None, "remove": {"de": 0.4}, "by": "paragraph", "newline": " "},
        lambda m: plain("FastTextClassifierFilter", model_url=str(m), remove_labels=[("de", 0.4)],
                        filter_mode="PARAGRAPH", newline_replacement=" "),
    ),
    "classifier, sentences": (
        {"filter": "classifier", "model": None, "keep": {"en": 0.6}, "by": "sentence"},
        lambda m: plain("FastTextClassifierFilter", model_url=str(m), keep_labels=[("en", 0.6)],
                        filter_mode="SENTENCE"),
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_decides_as_datatrove_does(
    case: str, texts: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datatrove.io.cached_assets_path", lambda **_: tmp_path)
    entry, make = CASES[case]
    if isinstance(entry, dict) and "model" in entry:
        entry = entry | {"model": str(model)}
    found = judged(entry, texts, tmp_path)
    expected = kept_by_datatrove(make(model), texts, tmp_path / "logs")
    # Left empty by datatrove's filters for lines, and kept all the same: here such a document goes.
    expected = {number: text for number, text in expected.items() if text.strip()}
    assert {number: text for number, (reason, text) in enumerate(found) if reason is None} == expected
    assert 0 < len(expected) < len(texts)
    for text, (reason, left) in zip(texts, found, strict=True):
        assert reason is None or left == text, "what is removed can be looked at as it was"


# By filter: datatrove's class, all rules off in its words and in ours, and the rules that are switched on alone.
ALONE: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[tuple[str, str, float]]]] = {
    "gopher_quality": (
        "GopherQualityFilter",
        {"min_doc_words": 1, "max_doc_words": None, "min_avg_word_length": None, "max_avg_word_length": None,
         "max_symbol_word_ratio": None, "max_bullet_lines_ratio": None, "max_ellipsis_lines_ratio": None,
         "max_non_alpha_words_ratio": None, "min_stop_words": None},
        {"min_words": 1, "max_words": None, "min_word_length": None, "max_word_length": None, "max_symbols": None,
         "max_bullet_lines": None, "max_ellipsis_lines": None, "min_alphabetic_words": None, "min_stop_words": None},
        [("min_avg_word_length", "min_word_length", 4), ("max_bullet_lines_ratio", "max_bullet_lines", 0.5),
         ("max_ellipsis_lines_ratio", "max_ellipsis_lines", 0.5)],
    ),
    "gopher_repetition": (
        "GopherRepetitionFilter",
        {"dup_line_frac": None, "dup_para_frac": None, "dup_line_char_frac": None, "dup_para_char_frac": None,
         "top_n_grams": (), "dup_n_grams": ()},
        {"duplicate_lines": None, "duplicate_paragraphs": None, "duplicate_line_characters": None,
         "duplicate_paragraph_characters": None, "top_n_grams": None, "duplicate_n_grams": None},
        [("dup_line_frac", "duplicate_lines", 0.1), ("dup_para_frac", "duplicate_paragraphs", 0.1),
         ("dup_line_char_frac", "duplicate_line_characters", 0.1),
         ("dup_para_char_frac", "duplicate_paragraph_characters", 0.1)],
    ),
    "fineweb_quality": (
        "FineWebQualityFilter",
        {"line_punct_thr": 0.0, "short_line_thr": 1.0, "char_duplicates_ratio": 1.0, "new_line_ratio": 99.0},
        {"min_punctuated_lines": 0, "max_short_lines": 1, "max_duplicate_characters": 1, "max_newlines": 99},
        [("char_duplicates_ratio", "max_duplicate_characters", 0.1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, case in ALONE.items() for rule in case[3]])
def test_each_rule_alone_decides_as_datatrove_does(
    name: str, rule: tuple[str, str, float], texts: list[str], tmp_path: Path
) -> None:
    class_name, off, ours_off, _ = ALONE[name]
    theirs, ours, limit = rule
    texts = [text for text in texts if "IS_ALPHA" not in text]
    expected = kept_by_datatrove(plain(class_name, **off | {theirs: limit}), texts, tmp_path / "logs")
    found = judged({"filter": name, **ours_off, ours: limit}, texts, tmp_path)
    assert {number for number, (reason, _) in enumerate(found) if reason is None} == set(expected)
    assert 0 < len(expected) < len(texts)


def test_language_decides_as_datatrove_does(
    texts: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datatrove.utils.lid.cached_asset_path_or_download", lambda *a, **k: str(model))
    for entry, step in (
        ({"filter": "language", "model": str(model)}, plain("LanguageFilter", languages=["en"])),
        (
            {"filter": "language", "model": str(model), "keep": ["de"], "threshold": 0.3},
            plain("LanguageFilter", languages=["de"], language_threshold=0.3),
        ),
    ):
        expected = kept_by_datatrove(step, texts, tmp_path / entry.get("keep", ["en"])[0])
        found = judged(entry, texts, tmp_path)
        assert {number for number, (reason, _) in enumerate(found) if reason is None} == set(expected)
        assert 0 < len(expected) < len(texts)
        assert {reason for reason, _ in found} <= {None, "en", "de", "score too low"}


def test_bad_words_decide_as_datatrove_does(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words.txt"
    words.write_text("frobnicated\nwas left\n", encoding="utf-8")
    monkeypatch.setattr("datatrove.pipeline.filters.c4_filters.cached_asset_path_or_download", lambda *a, **k: words)
    lines_alone = {"filter": "c4", "end_punctuation": False, "min_words_per_line": None, "min_sentences": None}
    without = judged(lines_alone, texts, tmp_path)
    staying = [text for reason, text in without if reason is None]
    expected = kept_by_datatrove(plain("C4BadWordsFilter"), staying, tmp_path / "logs")
    found = judged(lines_alone | {"bad_words": str(words)}, texts, tmp_path)
    assert [text for reason, text in found if reason is None] == list(expected.values())
    assert 0 < len(expected) < len(staying)


@pytest.mark.parametrize(
    ("limits", "staying"),
    [
        ({"min_characters": 5}, [2, 3, 4]),
        ({"max_characters": 5}, [0, 1, 2]),
        ({"min_words": 3}, [3, 4]),
        ({"min_words": 2, "max_words": 3}, [3]),
        ({"min_characters": 5, "max_words": 1}, [2]),
    ],
)
def test_lengths_include_both_ends(limits: dict[str, int], staying: list[int], tmp_path: Path) -> None:
    texts = ["a", "abcd", "abcde", "a bird, ", "one two three four"]  # the third has 3 words, the comma being one
    found = judged({"filter": "length", **limits}, texts, tmp_path)
    assert [number for number, (reason, _) in enumerate(found) if reason is None] == staying
    assert {reason for reason, _ in found} <= {
        None, "too few characters", "too many characters", "too few words", "too many words"
    }  # fmt: skip


def test_a_document_on_which_a_filter_fails_goes_with_the_reason(model: Path, tmp_path: Path) -> None:
    broken = "a lone surrogate \ud800"
    lenient = {"filter": "gopher_quality", "min_words": 1, "max_words": 10_000}
    assert judged(lenient, [broken, PROSE], tmp_path) == [
        ("cannot be judged (UnicodeEncodeError)", broken), (None, PROSE)
    ]  # fmt: skip
    language = {"filter": "language", "model": str(model)}
    assert judged(language, [broken], tmp_path) == [("cannot be judged (TypeError)", broken)]
    speechless = write_classifier(tmp_path / "model.bin", {"en": ["river"]}, end_of_line=False)
    found = judged({"filter": "language", "model": str(speechless)}, ["the river", "xyz"], tmp_path)
    assert found == [(None, "the river"), ("cannot be judged (ValueError)", "xyz")]


def test_a_machine_that_fails_is_not_taken_for_a_bad_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datatrove.pipeline.filters import GopherQualityFilter

    def full(self: Any, document: Any) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GopherQualityFilter, "filter", full)
    with pytest.raises(OSError, match="No space left"):
        judged("gopher_quality", [PROSE], tmp_path)


@pytest.mark.long
def test_filters_travel_to_other_processes(texts: list[str], model: Path, tmp_path: Path) -> None:
    import dill

    entries = [
        "gopher_quality",
        {"filter": "language", "model": str(model)},
        {"filter": "length", "min_words": 9},
        "c4",
    ]
    chosen = [entry for _, entry in prepare_filters(filters(*entries), tmp_path)]
    before = [
        [rule(document) for rule in [entry.build(tmp_path) for entry in chosen]] for document in _documents(texts)
    ]
    sent = tmp_path / "filters"
    sent.write_bytes(dill.dumps((chosen, texts, tmp_path)))
    assert sent.stat().st_size < 200_000  # no model, no tokenizer
    program = (
        "import dill, sys; from datatrove.data import Document; chosen, texts, work = dill.load(open(sys.argv[1], 'rb'));"
        "documents = [Document(text=text, id='') for text in texts]; rules = [entry.build(work) for entry in chosen];"
        "print([[rule(document) for rule in rules] for document in documents])"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(sent)], capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert there.stdout.strip() == str(before)


def _documents(texts: list[str]) -> list[Any]:
    from datatrove.data import Document

    return [Document(text=text, id="") for text in texts]


def test_filters_for_one_document_keep_their_order_and_their_numbers(tmp_path: Path) -> None:
    chosen = filters("c4", {"filter": "length", "min_words": 3, "name": "long"}, "exact_duplicates", "near_duplicates")
    assert [(number, entry.title) for number, entry in prepare_filters(chosen, tmp_path)] == [(1, "c4"), (2, "long")]


def problems(*entries: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        check_filters(filters(*entries))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.long
def test_what_is_there_passes_the_check(model: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("word\n", encoding="utf-8")
    (tmp_path / "exam.txt").write_text("a question\n", encoding="utf-8")
    check_filters(
        filters(
            {"filter": "language", "model": str(model), "keep": ["de"]},
            {"filter": "classifier", "model": str(model), "remove": {"en": 0.5}},
            {"filter": "c4", "bad_words": str(tmp_path / "words.txt")},
            {"filter": "decontaminate", "files": [str(tmp_path)]},
            "gopher_quality", "gopher_repetition", "fineweb_quality", {"filter": "length", "max_words": 3},
            "exact_duplicates", "near_duplicates",
        )
    )  # fmt: skip


@pytest.mark.long
def test_all_that_is_missing_is_said_at_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    found = problems(
        {"filter": "language", "model": str(tmp_path / "lid.176.bin")},
        {"filter": "language", "model": str(model), "keep": ["fr", "en"], "name": "french"},
        {"filter": "classifier", "model": str(model), "remove": {"spam": 0.5}},
        {"filter": "c4", "bad_words": str(tmp_path / "no.txt"), "name": "a"},
        {"filter": "c4", "bad_words": str(tmp_path / "empty.txt"), "name": "b"},
        {"filter": "c4", "bad_words": str(tmp_path / "latin.txt"), "name": "c"},
        {"filter": "gopher_repetition", "language": "xx"},
        {"filter": "fineweb_quality", "language": "th"},
        {"filter": "decontaminate", "files": [str(tmp_path / "exams")]},
        {"filter": "near_duplicates", "language": "qqq"},
    )
    starts = [
        "data.filters.0.model: ", "data.filters.1.keep: the model has no label fr; its labels are de, en",
        "data.filters.2.remove: the model has no label spam", "data.filters.3.bad_words: ",
        "data.filters.4.bad_words: ", "data.filters.5.bad_words: ",
        "data.filters.6.language: datatrove has no word tokenizer for 'xx'",
        "data.filters.7.language: the word tokenizer for 'th' is not installed",
        "data.filters.8.files: no such file or folder", "data.filters.9.language: ",
    ]  # fmt: skip
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start), problem
    assert found[7].endswith("pip install pythainlp")


@pytest.mark.parametrize("entry", [{"filter": "language", "model": "a"}, "gopher_quality", "near_duplicates"])
def test_a_missing_package_is_said_with_the_command_that_installs_it(
    entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("fasttext", "spacy") else real(name, *a)
    )
    (found,) = problems(entry)
    assert "not installed; pip install 'inheritune[filters]'" in found


def test_a_language_model_that_cannot_be_downloaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("datatrove.io.cached_assets_path", lambda **_: tmp_path)
    monkeypatch.setattr("datatrove.io.download_file", refuse)
    (found,) = problems("language")
    assert found.startswith("data.filters.0: the language model lid.176.bin is not on this machine")
    assert "no route to host" in found
    assert "https://" in found
    assert found.endswith("model: PATH/lid.176.bin")
