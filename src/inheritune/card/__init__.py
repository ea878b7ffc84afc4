"""What is published of a model: its card, with where it comes from, and the upload to the hub."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.card.origin import origin_of_model
    from inheritune.card.push import find_model, prepare_upload, token_source, upload
    from inheritune.card.run import without_stopping, write_cards
    from inheritune.card.single import inherited_files, write_trained_card

__getattr__, __dir__ = lazy.exports(__name__)
