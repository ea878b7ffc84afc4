import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import tiny_recipe
from inheritune.cli.description import describe
from inheritune.corpus.filters.near_duplicates import NearDuplicates
from inheritune.errors import InputError
from inheritune.recipe import FILTERS, Data, check, dump_recipe, load_recipe

LEGAL = (
    "c4, classifier, decontaminate, fineweb_quality, gopher_quality, gopher_repetition, language, length, "
    "exact_duplicates, near_duplicates"
)
# The least that each filter must be told.
LEAST: dict[str, dict[str, Any]] = {
    "length": {"min_words": 3},
    "classifier": {"model": "m.bin", "keep": {"good": 0.5}},
    "decontaminate": {"files": ["exam.jsonl"]},
}


def data(*filters: Any) -> Data:
    return check(Data, {"sources": [{"path": "a"}], "filters": list(filters)}, "data")


def problem(*filters: Any) -> str:
    with pytest.raises(InputError) as caught:
        data(*filters)
    (found,) = caught.value.problems
    return str(found)


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_reads_back_as_itself(name: str) -> None:
    request = data({"filter": name, **LEAST.get(name, {})})
    again = check(Data, yaml.safe_load(dump_recipe(request)), "data")
    assert again == request
    assert again.filters[0].title == name
    if name not in LEAST:
        assert data(name) == request, "a bare name is the filter with its defaults"


# datatrove's class, and its parameter by our option.
SAME_DEFAULTS = {
    "language": ("LanguageFilter", {"threshold": "language_threshold"}),
    "gopher_quality": ("GopherQualityFilter", {
        "min_words": "min_doc_words", "max_words": "max_doc_words", "min_word_length": "min_avg_word_length",
        "max_word_length": "max_avg_word_length", "max_symbols": "max_symbol_word_ratio",
        "max_bullet_lines": "max_bullet_lines_ratio", "max_ellipsis_lines": "max_ellipsis_lines_ratio",
        "min_alphabetic_words": "max_non_alpha_words_ratio", "min_stop_words": "min_stop_words",
        "stop_words": "stop_words"}),
    "gopher_repetition": ("GopherRepetitionFilter", {
        "duplicate_lines": "dup_line_frac", "duplicate_paragraphs": "dup_para_frac",
        "duplicate_line_characters": "dup_line_char_frac", "duplicate_paragraph_characters": "dup_para_char_frac",
        "top_n_grams": "top_n_grams", "duplicate_n_grams": "dup_n_grams"}),
    "c4": ("C4QualityFilter", {
        "end_punctuation": "filter_no_terminal_punct", "min_words_per_line": "min_words_per_line",
        "max_word_length": "max_word_length", "javascript": "filter_javascript", "policy": "filter_policy",
        "citations": "remove_citations", "lorem_ipsum": "filter_lorem_ipsum", "curly_bracket": "filter_curly_bracket",
        "min_sentences": "min_num_sentences"}),
    "fineweb_quality": ("FineWebQualityFilter", {
        "min_punctuated_lines": "line_punct_thr", "max_short_lines": "short_line_thr", "short_line": "short_line_length",
        "max_duplicate_characters": "char_duplicates_ratio", "max_newlines": "new_line_ratio"}),
    "classifier": ("FastTextClassifierFilter", {"newline": "newline_replacement"}),
    "near_duplicates": ("MinhashConfig", {
        "n_grams": "n_grams", "buckets": "num_buckets", "hashes_per_bucket": "hashes_per_bucket"}),
    "decontaminate": ("NGramsDecontConfig", {"n_grams": "n_grams"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME_DEFAULTS)
def test_defaults_are_those_of_datatrove(name: str) -> None:
    from datatrove.pipeline import decont, dedup, filters

    class_name, options = SAME_DEFAULTS[name]
    found = next(getattr(room, class_name) for room in (filters, dedup, decont) if hasattr(room, class_name))
    parameters = inspect.signature(found).parameters
    for ours, theirs in options.items():
        default = FILTERS[name].model_fields[ours].default
        default = tuple(default.items()) if isinstance(default, dict) else default
        assert default == parameters[theirs].default, (ours, theirs)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gopher_qualty", f"data: filters.0: got 'gopher_qualty': there is no filter 'gopher_qualty'; did you mean gopher_quality? legal are {LEGAL}"),
        ({"filter": ["c4"]}, f"data: filters.0: there is no filter ['c4']; legal are {LEGAL}"),
        ({"min_words": 3}, f"data: filters.0: not a filter; give a name, or a mapping with the key filter: {LEGAL}"),
        (7, f"data: filters.0: got 7: not a filter; give a name, or a mapping with the key filter: {LEGAL}"),
        ({"filter": "c4", "min_sentence": 3}, "data: unknown key 'filters.0.min_sentence'; did you mean 'min_sentences'?"),
        ({"filter": "language", "threshold": 2}, "data: filters.0.threshold: got 2: input should be less than or equal to 1"),
        ({"filter": "language", "keep": []}, "data: filters.0.keep: list should have at least 1 item"),
        ({"filter": "classifier", "keep": {"a": 0.5}}, "data: key 'filters.0.model' is missing"),
        ({"filter": "classifier", "model": "m", "keep": {"a": 1.5}}, "data: filters.0.keep.a: got 1.5: input should be less than or equal to 1"),
        ({"filter": "classifier", "model": "m"}, "data: filters.0: give either keep or remove"),
        ({"filter": "classifier", "model": "m", "keep": {"a": 1}, "remove": {"b": 1}}, "data: filters.0: give either keep or remove"),
        ({"filter": "classifier", "model": "m", "keep": {"a": 1}, "by": "line"}, "data: filters.0.by: got 'line': input should be 'document', 'paragraph' or 'sentence'"),
        ({"filter": "gopher_quality", "language": "de"}, "data: filters.0: the default stop words are English, language is de; give its stop_words"),
        ({"filter": "gopher_quality", "max_symbols": 0}, "data: filters.0.max_symbols: got 0: input should be greater than 0"),
        ({"filter": "gopher_repetition", "top_n_grams": {"two": 0.2}}, "data: filters.0.top_n_grams.two: got 'two': input should be a valid integer"),
        ("length", "data: filters.0: no limit is given; give min_characters"),
        ({"filter": "length", "min_words": 9, "max_words": 3}, "data: filters.0: min_words 9 is above max_words 3; nothing would be kept"),
        ("decontaminate", "data: filters.0: nothing to compare with; give files or tasks"),
        ({"filter": "near_duplicates", "buckets": 0}, "data: filters.0.buckets: got 0: input should be greater than or equal to 1"),
        ({"filter": "c4", "name": "a/b"}, "data: filters.0.name: got 'a/b': string should match"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_place(entry: Any, said: str) -> None:
    assert problem(entry).startswith(said)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (["c4", "c4"], "c4 is in the list twice; give each its own `name`"),
        (["c4", {"filter": "length", "min_words": 2, "name": "c4"}], "c4 is in the list twice"),
        (["near_duplicates", "c4"], "c4 comes after near_duplicates, which compares the documents that all others keep; put near_duplicates last"),
        (["exact_duplicates", "near_duplicates", "c4"], "c4 comes after near_duplicates"),
        (["near_duplicates", {"filter": "near_duplicates", "name": "again"}], "near_duplicates is in the list twice; remove one"),
    ],
)  # fmt: skip
def test_orders_that_cannot_be_are_refused(filters: list[Any], said: str) -> None:
    assert problem(*filters).startswith(f"data: filters: {said}")


def test_the_same_filter_may_stand_twice_under_two_names() -> None:
    two = data("c4", {"filter": "c4", "name": "sentences", "by": "sentence"}, "exact_duplicates", NearDuplicates())
    assert [entry.title for entry in two.filters] == ["c4", "sentences", "exact_duplicates", "near_duplicates"]


def test_filters_of_prepared_data_are_refused() -> None:
    with pytest.raises(InputError, match="filters is for sources; remove it"):
        check(Data, {"prepared": "folder", "filters": ["c4"]}, "data")


def test_problems_in_a_recipe_have_their_line(write_recipe: Any, text: Path) -> None:
    tree = tiny_recipe(text)
    tree["data"]["filters"] = ["c4", {"filter": "language", "threshold": 3}, {"filter": "length", "max_word": 3}]
    path = write_recipe(tree)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for found, (key, dotted) in zip(
        caught.value.problems, [("threshold", "data.filters.1.threshold"), ("max_word:", "data.filters.2.max_word")], strict=True
    ):  # fmt: skip
        line = next(number for number, content in enumerate(lines, 1) if key in content)
        assert found.place == f"{path}:{line}"
        assert dotted in found.what


def test_every_option_is_described() -> None:
    page = describe()
    for name, model in FILTERS.items():
        assert f"## `data.filters: filter: {name}`" in page
        for option, field in model.model_fields.items():
            assert field.description, (name, option)


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "first", ["recipe", "corpus.filters.c4", "corpus.filters.near_duplicates", "corpus.sources.reading"]
)
def test_all_filters_are_known_whatever_is_imported_first_and_nothing_slow_is_loaded(first: str) -> None:
    program = f"import sys, inheritune.{first}; from inheritune.recipe import FILTERS; print(*FILTERS, sep=', ');"
    slow = "('torch', 'transformers', 'datatrove', 'datasets', 'pyarrow')"
    assert python(program + f"print([name for name in {slow} if name in sys.modules])") == f"{LEGAL}\n[]"


def test_a_filter_is_registered_by_its_file(tmp_path: Path) -> None:
    source = """
from typing import Literal
from inheritune.corpus.filters.base import DocumentFilter

class Short(DocumentFilter):
    filter: Literal["short"] = "short"
"""
    (tmp_path / "short.py").write_text(source)
    program = f"""
import inheritune.corpus
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def with_more(name, path=None, target=None):
    spec = find(name, path, target)
    if name == "inheritune.corpus.filters":
        spec.submodule_search_locations.append({str(tmp_path)!r})
    return spec
PathFinder.find_spec = with_more
from inheritune.recipe import Data, check
print(check(Data, {{"sources": [{{"path": "a"}}], "filters": ["short"]}}, "data").filters)
"""
    assert python(program) == "[Short(filter='short', name=None)]"
