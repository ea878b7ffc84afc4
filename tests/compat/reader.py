"""Run by a Python with transformers 4 and without this project: loads what is in a folder, and says what it made of it.

Each folder in the one that is given holds model/ and, as the test wrote it, expected.safetensors (tokens and logits),
texts.json (texts to split), options.json (how to load the model). The last line printed is JSON: the version of
transformers, its decoders' `types`, and for each folder `apart` (the largest difference of logits), `faults` (missing and unexpected keys, an
error), `ids`, `again` (decoded), `names` (of what the tokenizer returns), `padded` and `generates`.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.utils import logging


def model_of(folder):
    options = json.loads((folder / "options.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    model, info = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype="auto", output_loading_info=True, **options
    )
    with torch.no_grad():
        logits = model.eval()(input_ids=expected["tokens"], use_cache=False).logits
    found = {
        "apart": (logits - expected["logits"]).abs().max().item(),
        "faults": {what: sorted(map(str, names)) for what, names in info.items() if names},
        "dtype": str(model.dtype),
    }
    if (folder / "model" / "generation_config.json").exists():
        found["generation"] = GenerationConfig.from_pretrained(folder / "model").to_diff_dict()
    return found


def tokenizer_of(folder):
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    return tokenizer_facts(AutoTokenizer.from_pretrained(folder / "model"), texts)


def tokenizer_facts(tokenizer, texts):
    ids = [tokenizer(text)["input_ids"] for text in texts]
    found = {
        "ids": ids,
        "again": [tokenizer.decode(one) for one in ids],
        "names": sorted(tokenizer("a b")),
        "special": sorted(set(tokenizer.all_special_tokens)),
        "length": len(tokenizer),
        "longest": min(tokenizer.model_max_length, 10**9),
        "side": tokenizer.padding_side,
    }
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": "hello"}]
        found["chat"] = tokenizer.apply_chat_template(messages, tokenize=False)
    return found


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        for file, look in (("expected.safetensors", model_of), ("texts.json", tokenizer_of)):
            if not (folder / file).exists():
                continue
            try:
                found.setdefault(folder.name, {}).update(look(folder))
            except Exception as error:  # whatever transformers stumbles over
                found.setdefault(folder.name, {})["error"] = f"{type(error).__name__}: {error}"[:500]
    print(json.dumps({"version": transformers.__version__, "types": sorted(CAUSAL), "found": found}))


if __name__ == "__main__":
    main()
