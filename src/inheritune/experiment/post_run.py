"""After a run has its result: the analysis of reference and target, and samples of both."""

from dataclasses import dataclass
from pathlib import Path

from inheritune.analysis import analyze
from inheritune.arch import in_dtype, load_model, load_tokenizer
from inheritune.data import Packing, note_beside, open_prepared, packing_of
from inheritune.evaluation import document_starts, greedy_continuation
from inheritune.experiment.context import check_framing
from inheritune.recipe import Recipe, Reference
from inheritune.report import PAIR
from inheritune.results import Continuations, Samples
from inheritune.runlog import Terminal, read_mapping
from inheritune.runtime import Runtime

_SEQUENCES, _LENGTH = 100, 100  # the paper's; fewer and shorter where there is less text
_PROMPTS = 3


@dataclass(frozen=True)
class PostRun:
    """Analysis and samples in a run's `folder`, as its recipe's `evaluate` asks for them.

    `result` is the target's place in the folder, `reference` the reference's weights.
    """

    recipe: Recipe
    folder: Path
    result: str
    reference: Reference
    runtime: Runtime
    terminal: Terminal

    @property
    def _models(self) -> list[Reference]:
        path, trust = str(self.folder / self.result), self.reference.trust_remote_code
        return [self.reference, Reference(path=path, trust_remote_code=trust)]

    def write(self) -> bool:
        """Write analysis/ and samples.json where they are asked for and missing; returns whether anything was written.

        Nothing is written, and a line says so, where the text or the target was removed. Raises InputError for a model
        that cannot be read.
        """
        wanted = self.runtime.on_rank0(self._wanted)
        if wanted:
            tokenizer, judged = load_tokenizer(self._models[1]), self.folder / "reference" / "evaluation.json"
            packing = packing_of(open_prepared(self.folder / "data"), tokenizer, prefix=self.recipe.data.prefix)
            self.runtime.on_rank0(
                lambda: check_framing(read_mapping(judged) if judged.exists() else {}, packing, judged)
            )
        if "analysis" in wanted:
            self._analyze(packing)
        if "samples" in wanted:
            self.runtime.on_rank0(lambda: self._sample(packing))
        return bool(wanted)

    def _wanted(self) -> list[str]:
        spec, folder = self.recipe.evaluate, self.folder
        wanted = ["analysis"] if spec.analyze and not (folder / "analysis" / "analysis.json").exists() else []
        wanted += ["samples"] if self._wants_samples() else []
        gone = [place for place in (folder / "data", folder / self.result) if not place.is_dir()]
        if wanted and gone:
            self.terminal.say(f"{' and '.join(wanted)}: not made, as {gone[0]} is gone")
        return [] if gone else wanted

    def _wants_samples(self) -> bool:
        """Whether samples are asked for that are not there; other prompts, or more tokens, are sampled again."""
        spec, file = self.recipe.evaluate, self.folder / "samples.json"
        if spec.prompts == []:
            return False
        if not file.exists():
            return True
        samples = Samples.read(file)
        return samples.new_tokens != spec.new_tokens.count or spec.prompts not in (None, samples.prompts)

    def _analyze(self, packing: Packing) -> None:
        """Write analysis/, on validation text. All processes take part; rank 0 writes."""
        data, length = self.folder / "data", min(_LENGTH, self.recipe.train.sequence_length)
        self.runtime.on_rank0(lambda: open_prepared(data).verify(note_beside(data)))  # once for both models
        tokens = len(open_prepared(data).tokens("validation"))
        count = min(_SEQUENCES, (tokens - packing.context) // length)  # a run has at least one sequence
        fewer = "" if count == _SEQUENCES else ", as the validation text has no more"
        self.terminal.say(f"analysis: reference and target on {count} sequences of {length} tokens{fewer}")
        analyze(
            self._models, data=data, sequences=count, sequence_length=length, device=self.runtime.device,
            prefix=self.recipe.data.prefix, out=self.folder / "analysis" if self.runtime.is_rank0 else None,
            say=self.terminal.say,
        )  # fmt: skip

    def _sample(self, packing: Packing) -> None:
        """Write samples.json: the same prompts, continued by both models."""
        spec, tokenizer = self.recipe.evaluate, load_tokenizer(self._models[1])
        prompts = spec.prompts or document_starts(open_prepared(self.folder / "data"), tokenizer, _PROMPTS)
        count = spec.new_tokens.count
        self.terminal.say(f"samples: {len(prompts)} prompts, continued by reference and target")

        def continued(name: str, place: Reference) -> Continuations:  # in a function, so that one model is freed first
            model = in_dtype(load_model(place), "float32").to(self.runtime.device)
            texts = [greedy_continuation(model, tokenizer, text, count, packing.prefix) for text in prompts]
            return Continuations(name=name, continuations=texts)

        models = [continued(name, place) for name, place in zip(PAIR, self._models, strict=True)]
        Samples(prompts=prompts, models=models, new_tokens=count).write(self.folder / "samples.json")
