"""A stand-in for llama.cpp's convert_hf_to_gguf.py, which writes as JSON what the real one would be told and would read."""

from pathlib import Path

SCRIPT = """
import json, logging, sys
from pathlib import Path

class Writer:
    def __init__(self):
        self.keys = {}
    def __getattr__(self, name):
        return lambda value: self.keys.__setitem__(name, value)

class ModelBase:
    pass

class TextModel(ModelBase):
    def __init__(self):
        self.gguf_writer = Writer()
    def get_vocab_base_pre(self, tokenizer):
        if NAME is None:
            raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")
        return NAME
    def prepare_metadata(self, vocab_only):
        self.gguf_writer.add_add_space_prefix("the converter's")

NAME, FAULT = %r, %r

def main():
    stage, _, out, _, outtype, _, name = sys.argv[1:]
    if FAULT:
        Path(out).write_text("half a file")
        sys.exit(FAULT) if FAULT.startswith("ERROR") else None
        raise RuntimeError(FAULT)
    model = TextModel()
    model.prepare_metadata(vocab_only=False)
    files = {file.name: file.read_bytes().hex() for file in Path(stage).iterdir()}
    pre = model.get_vocab_base_pre(None) if "tokenizer.model" not in files else None
    Path(out).write_text(json.dumps({"type": outtype, "name": name, "files": files, "pre": pre, "keys": model.gguf_writer.keys}))
"""


def stand_in(folder: Path, name: str | None = None, fault: str = "") -> Path:
    """A converter that gives the tokenizer this `name` (None: it does not know it), or fails with `fault`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(SCRIPT % (name, fault), encoding="utf-8")
    return script
