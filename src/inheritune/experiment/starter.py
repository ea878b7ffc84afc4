"""`new`: a commented recipe to start from (starter.yaml), with numbers that fit the reference and the text."""

from importlib.resources import files

from inheritune.arch import layer_count, load_config
from inheritune.corpus import text_bytes, whole_files
from inheritune.experiment.text_size import estimated_tokens
from inheritune.recipe import Source, check, model_at
from inheritune.report import many, short

_SHORT_TEXT = 3_000_000  # tokens below which sequences are short, so that there are enough steps
_FEW_DOCUMENTS = 200  # validation looks for twenty in a tenth of the text
_VALIDATION = 100_000  # tokens, at most a tenth of the text


def starter_recipe(reference: str, text: str | None = None) -> str:
    """The text of a commented recipe for a reference, from its config alone, and for a file or folder with text.

    Raises InputError when there is no such model, when it is not a decoder-only text model, and where there is no text.
    """
    source = None if text is None else check(Source, {"path": text}, "--text")
    size = None if source is None else text_bytes([source])
    config = load_config(model_at(reference))
    tokens = None if size is None else estimated_tokens(size, config.vocab_size)
    layers = layer_count(config)
    positions = getattr(config, "max_position_embeddings", None)
    longest = positions if isinstance(positions, int) and positions > 1 else 1024
    sequence = min(1024 if tokens is None or tokens > _SHORT_TEXT else 256, longest)
    validation = max(_VALIDATION, 32 * sequence)
    if tokens is not None:
        validation = max(2 * sequence, min(validation, tokens // 10))
    half = max(1, (layers + 1) // 2)
    template = files("inheritune.experiment").joinpath("starter.yaml").read_text(encoding="utf-8")
    return template.format(
        path=reference, layers=layers, half=half, last=half - 1, sequence=sequence, validation=validation,
        deepest=max(half, layers - 1), text="text/" if text is None else text, document=_document_rule(source, size),
        note="CHANGE THIS: a file or a folder with your text" if tokens is None else
        f"about {short(tokens)} tokens, by the size of its files",
    )  # fmt: skip


def _document_rule(source: Source | None, size: int | None) -> str:
    """A line that divides files into pieces, where there are too few for validation and training; else nothing."""
    documents = None if source is None else whole_files(source)
    if documents is None or size is None or documents >= _FEW_DOCUMENTS:
        return ""
    piece = max(500, min(4000, size // _FEW_DOCUMENTS // 500 * 500))
    why = "the file is" if documents == 1 else f"{documents} files are"
    rule = f"      document: {piece} characters"
    return f"{rule}   # without it {why} {many(documents, 'document')}, too few to set some apart\n"
