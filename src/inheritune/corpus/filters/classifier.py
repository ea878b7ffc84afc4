"""The filter `classifier`: a fastText classifier of the user's own."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inheritune.corpus.filters.base import DocumentFilter, Score, Steps
from inheritune.corpus.filters.fasttext_model import check_labels, check_packages, load_model
from inheritune.corpus.filters.words import check_words

LabelScores = Annotated[dict[str, Score], Field(min_length=1)]


class Classifier(DocumentFilter):
    """Keeps or removes documents by the labels of a fastText classifier."""

    filter: Literal["classifier"] = "classifier"
    """The filter's name."""
    model: Path
    """The classifier on this machine: what fastText's `save_model` wrote (.bin or .ftz)."""
    keep: LabelScores | None = None
    """Label: least score (0 to 1). A document that reaches one of them is kept. Labels are written without
    `__label__`."""
    remove: LabelScores | None = None
    """Label: least score (0 to 1). A document that reaches one of them is removed. Instead of `keep`."""
    by: Literal["document", "paragraph", "sentence"] = "document"
    """What is classified. paragraph, sentence (English rules): those that are not kept are cut out of the document, and
    a document of which nothing remains is removed."""
    newline: str = ""
    """What replaces a newline when a text is classified: fastText reads one line. A classifier that was trained on
    texts with newlines turned to spaces needs ' '."""

    @property
    def cuts_text(self) -> bool:
        """Paragraphs or sentences."""
        return self.by != "document"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.keep is None) == (self.remove is None):
            raise ValueError("give either keep or remove, as label: least score; for both put the filter in twice")
        return self

    def check(self, place: str) -> None:
        """fastText, the model and its labels; for sentences a tokenizer of English."""
        check_packages(place)
        if self.by == "sentence":
            check_words("en", place)
        key = "keep" if self.keep else "remove"
        check_labels(self.keep or self.remove or (), f"{place}.{key}", self.model, f"{place}.model")

    def steps(self, work: Path) -> Steps:
        """Datatrove's class, with the model read from its place."""
        from datatrove.pipeline.filters import FastTextClassifierFilter

        step = FastTextClassifierFilter(
            str(self.model),
            keep_labels=list(self.keep.items()) if self.keep else None,
            remove_labels=list(self.remove.items()) if self.remove else None,
            newline_replacement=self.newline,
            filter_mode=self.by.upper(),
        )
        step._model = load_model(self.model)  # from its place, as in language.py
        yield step
