"""Tasks of lm-evaluation-harness on this machine: YAML with data in JSON beside it."""

import json
from pathlib import Path

ROWS = [
    {"q": "the small model keeps some of the", "choices": [" large one's blocks", " river"], "right": 0},
    {"q": "and learns again what it has", "choices": [" seven", " lost while it reads", " a dog"], "right": 1},
    {"q": "Document 3. the", "choices": [" model", " small"], "right": 1},
    {"q": "what it has lost", "choices": [" while", " blocks keeps"], "right": 0},
    {"q": "some of the large", "choices": [" one's blocks", " small"], "right": 0},
]
PAGES = [
    {
        "page": "the small model keeps some of the large one's blocks and learns again what it has lost while it reads. "
        * 6
    },
    {"page": "Document 5. keeps of large blocks learns what has while reads."},
]
PASSAGES = [
    {"passage": f"{words} and learns again what it has lost while it reads.", "q": q, "choices": [" large", " small"], "right": right}
    for words, q, right in (
        ("the small model", "it is", 0), ("the small model", "they are", 0), ("the small model", "not", 0),
        ("blocks of the large one", "it is", 1), ("blocks of the large one", "it was", 1), ("what the river", "it is", 0),
        ("what the river", "it is not", 1), ("a dog", "it is", 1), ("seven dogs", "they are", 0),
    )
]  # fmt: skip
SHOTS = [
    {"q": "the small model", "choices": [" keeps", " reads"], "right": 0},
    {"q": "of the", "choices": [" it", " large"], "right": 1},
]

_CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl, train: {folder}/shots.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
_PASSAGES = """
task: own_passages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/passages.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{passage}}}} {{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
_PAGES = """
task: own_pages
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/pages.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{page}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
_SHOTS = """
include: choice.yaml
task: own_shots
num_fewshot: 2
"""
_ZERO = """
include: choice.yaml
task: own_zero
num_fewshot: 0
"""
_FAULTY = """
include: choice.yaml
task: own_faulty
doc_to_text: "{{{{question}}}}"
"""


def write_tasks(folder: Path) -> Path:
    """own_choice (five questions, acc and acc_norm), own_shots (with two shots), own_zero (with none, whatever is asked
    for), own_faulty (its template names what its data lack), own_pages (perplexities), own_passages (nine questions on five passages).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("rows", ROWS), ("shots", SHOTS), ("pages", PAGES), ("passages", PASSAGES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, content in (
        ("choice", _CHOICE),
        ("pages", _PAGES),
        ("passages", _PASSAGES),
        ("shots", _SHOTS),
        ("zero", _ZERO),
        ("faulty", _FAULTY),
    ):
        (folder / f"{name}.yaml").write_text(content.format(folder=folder))
    return folder
