"""Conversations that a chat model makes itself, and how models answer questions that no training has seen.

    python benchmarks/chat.py answers REFERENCE chats/        # chats/train.jsonl, chats/held-out.jsonl
    inheritune run recipes/smollm2-chat.yaml --reference=REFERENCE
    python benchmarks/chat.py judge chats/held-out.jsonl REFERENCE runs/smollm2-chat/rounds/1-15layers/model

`answers` lets the reference answer the questions of recipes/prompts/questions.yaml, greedily, so no data set is
downloaded; answers that reach no end within the limit are left out. `judge` asks models the questions of
held-out.jsonl: how many answers end with the turn's own token, and the loss on the reference's answers.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import inheritune
from inheritune.arch import load_model, load_tokenizer
from inheritune.data import ChatTemplate, Conversation
from inheritune.evaluation import turn_ends
from inheritune.recipe import model_at
from inheritune.report import with_error
from inheritune.report.markup import markdown_table

QUESTIONS = Path(__file__).parents[1] / "recipes" / "prompts" / "questions.yaml"
BATCH = 16


def ask(model: Any, tokenizer: Any, questions: list[str], most: int) -> list[tuple[str, bool]]:
    """The greedy answers, each with whether it ended within `most` tokens."""
    template = ChatTemplate(tokenizer, "tokenizer", assistant_only=False)
    prompts = [template.prompt(Conversation([{"role": "user", "content": question}])) for question in questions]
    ends = sorted({*turn_ends(model), tokenizer.eos_token_id})
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    answers = []
    for first in range(0, len(prompts), BATCH):
        some = tokenizer(prompts[first : first + BATCH], add_special_tokens=False, padding=True, return_tensors="pt")
        with torch.no_grad():
            whole = model.generate(**some, max_new_tokens=most, do_sample=False, eos_token_id=ends)
        for tokens in whole[:, some["input_ids"].shape[1] :].tolist():
            at = next((place for place, token in enumerate(tokens) if token in ends), None)
            answers.append((tokenizer.decode(tokens[:at], skip_special_tokens=False).strip(), at is not None))
        print(f"{len(answers)} of {len(prompts)} answered", file=sys.stderr, flush=True)
    return answers


def opened(place: str) -> tuple[Any, Any]:
    reference = model_at(place)
    return load_model(reference).float().eval(), load_tokenizer(reference)


def write_answers(given: argparse.Namespace) -> None:
    lists = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    model, tokenizer = opened(given.reference)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, key in (("train", "topics"), ("held-out", "held_out")):
        questions = [form.format(topic=topic) for topic in lists[key] for form in lists["forms"]][: given.questions]
        began = time.monotonic()
        answers = ask(model, tokenizer, questions, given.tokens)
        lines = [
            json.dumps({"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": answer}]})
            for one, (answer, ended) in zip(questions, answers, strict=True)
            if ended and answer
        ]
        (given.out / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        seconds = time.monotonic() - began
        print(f"{name}: {len(lines)} of {len(questions)} answers ended within {given.tokens} tokens, {seconds:.0f} s")


def judge(given: argparse.Namespace) -> None:
    lines = given.chats.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["messages"][0]["content"] for line in lines]
    found = inheritune.evaluate(given.models, text=given.chats, device="cpu")
    rows = []
    for place, one in zip(given.models, found.models, strict=True):
        model, tokenizer = opened(place)
        answers = ask(model, tokenizer, questions, given.tokens)
        ended = sum(end for _, end in answers)
        loss = with_error(one.val_loss, one.val_loss_se)
        rows.append([one.name, str(one.layers), loss, f"{ended} of {len(answers)}"])
        for question, (answer, _) in list(zip(questions, answers, strict=True))[: given.shown]:
            print(f"{one.name}: {question}\n    {answer}")
    header = ["model", "blocks", "loss on the reference's answers", "answers that end"]
    print("\n".join(markdown_table(header, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    answers = commands.add_parser("answers")
    answers.add_argument("reference", help="a chat model: hub id, folder or .gguf file")
    answers.add_argument("out", type=Path, help="the folder to write")
    answers.add_argument("--questions", type=int, help="at most so many of each kind (default: all)")
    answers.set_defaults(do=write_answers)
    judged = commands.add_parser("judge")
    judged.add_argument("chats", type=Path, help="conversations with one question each")
    judged.add_argument("models", nargs="+")
    judged.add_argument("--shown", type=int, default=2, help="answers to print of each model")
    judged.set_defaults(do=judge)
    for command in (answers, judged):
        command.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
