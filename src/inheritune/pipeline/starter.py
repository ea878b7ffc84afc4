"""`new`: a recipe to start from, commented, with figures that fit the reference."""

from inheritune.arch import layer_count, load_config
from inheritune.recipe import model_at

_TEMPLATE = """\
# A recipe for a smaller model out of {path} ({layers} blocks).
# Try it:  inheritune run THIS_FILE     Override a key:  --train.length="2 epochs"
# Every key and its default: docs/recipe.md

reference: {path}            # a hub id, a folder with a Hugging Face checkpoint, or a .gguf file

data:
  sources:
    - path: text/            # CHANGE THIS: a file or a folder with your text
      include: ["*.txt", "*.md", "*.jsonl"]
  # size: 10M tokens         # training tokens, drawn at random with the seed; without it, all the text
  validation: {validation} tokens   # whole documents set apart; every model of the run is judged on them

inherit:
  layers: {half}                 # start with half of the {layers} blocks; or a fraction (0.5), or a list [0-{last}]
  choose: auto               # by trying out, on training text; or first (the paper's choice), ends, last, middle

train:
  length: 1 epochs           # or tokens (100M tokens), or steps (20K steps)
  batch: 64 sequences        # one optimizer step; or tokens (128K tokens)
  sequence_length: {sequence}
  micro_batch: 4             # sequences in memory at once; raise it while memory lasts
  optimizer:
    learning_rate: 3e-4
    weight_decay: 0.1
  schedule:
    name: cosine
    warm_up: 2%
  # distillation: {{}}         # learn from the reference's distribution too: docs/distillation.md

grow:                        # further rounds while the target is worse than the reference; null for a single round
  by: 2
  until: matched
  max_layers: {deepest}

controls: [random]           # the same small model from random weights, on the same tokens; also: reference-continued

evaluate:
  tolerance: 0.0             # matched: validation loss at most this much above the reference's (nats a token)
  every: 100 steps           # for the curves
  # tasks: [inheritune-v4]   # reference and result on tasks of lm-evaluation-harness: docs/evaluating.md
  # prompts: ["Once upon"]   # continued by both in the report; without it, beginnings of validation documents

seed: 1
"""


def starter_recipe(reference: str) -> str:
    """The text of a commented recipe for a reference, from its config alone.

    Raises InputError when there is no such model or it is not a decoder-only text model.
    """
    config = load_config(model_at(reference))
    layers = layer_count(config)
    positions = getattr(config, "max_position_embeddings", None)
    sequence = min(1024, positions) if isinstance(positions, int) and positions > 1 else 1024
    half = max(1, (layers + 1) // 2)
    return _TEMPLATE.format(
        path=reference, layers=layers, half=half, last=half - 1, sequence=sequence,
        validation=max(100_000, 32 * sequence), deepest=max(half, layers - 1),
    )  # fmt: skip
