"""`new`: a commented recipe to start from (starter.yaml), with numbers that fit the reference."""

from importlib.resources import files

from inheritune.arch import layer_count, load_config
from inheritune.recipe import model_at


def starter_recipe(reference: str) -> str:
    """The text of a commented recipe for a reference, from its config alone.

    Raises InputError when there is no such model or it is not a decoder-only text model.
    """
    config = load_config(model_at(reference))
    layers = layer_count(config)
    positions = getattr(config, "max_position_embeddings", None)
    sequence = min(1024, positions) if isinstance(positions, int) and positions > 1 else 1024
    half = max(1, (layers + 1) // 2)
    template = files("inheritune.experiment").joinpath("starter.yaml").read_text(encoding="utf-8")
    return template.format(
        path=reference, layers=layers, half=half, last=half - 1, sequence=sequence,
        validation=max(100_000, 32 * sequence), deepest=max(half, layers - 1),
    )  # fmt: skip
