"""The filter `language`: fastText's language identification."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from inheritune.corpus.filters.base import Document, DocumentFilter, Score, Steps
from inheritune.corpus.filters.fasttext_model import check_labels, check_packages, load_model
from inheritune.errors import InputError


class Language(DocumentFilter):
    """Keeps documents that fastText's language identification takes for one of some languages."""

    filter: Literal["language"] = "language"
    """The filter's name."""
    keep: Annotated[list[str], Field(min_length=1)] = ["en"]
    """Languages to keep, as the model calls them (lid.176.bin: ISO 639 codes)."""
    threshold: Score = 0.65
    """A document is kept when one of them has a score above this (0 to 1)."""
    model: Path | None = None
    """A fastText language model on this machine, such as lid.176.bin. Default: lid.176.bin, downloaded once
    into datatrove's folder of assets."""

    def check(self, place: str) -> None:
        """fastText, the model, and the languages as its labels."""
        check_packages(place)
        check_labels(self.keep, f"{place}.keep", self._model_file(place), f"{place}.model")

    def steps(self, work: Path) -> Steps:
        """By the language that has the highest score."""
        from datatrove.pipeline.filters import LanguageFilter

        step = LanguageFilter(self.keep, self.threshold)
        # Loaded from its place: datatrove would make a copy, and use the copy even when the file has changed.
        step.model._model = load_model(self._model_file(f"data.filters: {self.title}"))
        yield step

    def name_reason(self, document: Document, reason: str | None) -> str:
        """The language, or that its score is too low."""
        language = str(document.metadata["language"])
        return "score too low" if language in self.keep else language

    def _model_file(self, place: str) -> Path:
        """The file of the model; by default datatrove's, which is downloaded when it is missing."""
        if self.model is not None:
            return self.model
        from datatrove.io import cached_asset_path_or_download
        from datatrove.utils.lid import FT176LID

        address, folder = FT176LID.MODEL_URL, FT176LID.MODEL_SUBFOLDER
        try:
            return Path(cached_asset_path_or_download(address, progress=False, namespace="lid", subfolder=folder))
        except Exception as error:  # any error of the network, a proxy or the disk
            raise InputError(
                place,
                f"the language model lid.176.bin is not on this machine and cannot be downloaded ({error})",
                f"fetch {address} elsewhere and name the file here with model: PATH/lid.176.bin",
            ) from None
