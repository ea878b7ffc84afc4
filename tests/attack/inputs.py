"""The bad inputs: tables of faults times tables of places, as cases; and the selection of so many of them by a seed.

A family is a function that yields cases; one named `control` must succeed, so that no family can pass because
everything of it is refused for another reason.
"""

import random
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tests.attack import arguments, faults, fuzz, texts
from tests.attack.material import PLACES, copy, edit_json, recipe_tree, suite_tree
from tests.attack.worker import Case

# What each command is asked, and what it writes. `{...}` is a place of the material, damaged or not.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "show": ("inherit {model} --show --layers 2", ()),
    "inherit": ("inherit {model} out --layers 2", ("out/config.json",)),
    "half": (
        "inherit {model} out --layers 1 --heads 0.5 --mlp 0.5 --hidden 0.5 --importance first --dtype bfloat16",
        ("out/config.json",),
    ),
    "narrow": ("inherit {model} out --layers 2 --mlp 20 --text {text} --refit '128 tokens'", ("out/config.json",)),
    "choose": ("inherit {model} out --layers 2 --choose influence --text {text} --calibration '64 tokens'", ("out",)),
    "new": ("new {model} out.yaml", ("out.yaml",)),
    "evaluate": ("evaluate {model} --text {text} --sequence-length 16 --out out --quiet", ("out/evaluation.json",)),
    "analyze": ("analyze {model} --text {text} --sequences 2 --length 16 --out out --quiet", ("out/analysis.json",)),
    "train": (
        "train {model} out --data {data} --length '2 steps' --batch '2 sequences' --sequence-length 16 --quiet", ("out/model",)
    ),
    "prepare": ("prepare {text} --tokenizer {model} --validation '200 tokens' --out out --quiet", ("out/manifest.json",)),
    "plan": ("plan {recipe} --device A100", ()),
    "dry run": ("run {recipe} --dry-run", ()),
    "run": ("run {recipe} --out out --quiet", ("out/summary.json",)),
    "compare": ("compare {suite} --out out --quiet", ("out/comparison.json",)),
    "price": ("plan {suite} --device A100", ()),
    "sample": ("prepare --out {data} --sample", ()),
    "export": ("export {trained}/checkpoints/step-000000002 out", ("out/config.json",)),
    "push": ("push {run} me/model --quiet", ()),
    "push model": ("push {model} me/model --quiet", ()),
    "report": ("report {run} --out out", ("out/index.html",)),
    "report analysis": ("report {analysis} --out out", ("out/index.html",)),
    "evaluate run": ("evaluate {run} --out out --quiet", ("out/evaluation.json",)),
    "run again": ("run {run}/recipe.yaml --out {run} --quiet", ()),
    "train again": (
        "train {model} {trained} --data {data} --length '2 steps' --batch '2 sequences' --sequence-length 16 --quiet", ()
    ),
}  # fmt: skip
KEEPS = (".out.work*", ".out.lock", "*/.lock", ".shared*", "shared*")
AGAIN = ("run", "run/*", "trained", "trained/*")
# Finished stages that the next start goes on from.
STAGES = ("out", "out/recipe.yaml", "out/suite.yaml", "out/data*", "out/reference*", "out/manifest.json", "out/.*",
          "out/request.json", "out/rounds*", "out/runs*", "out/arms*", "out/kept.json")  # fmt: skip
Change = Callable[[Path], object]


class Tables:
    """Cases on one material; what is drawn depends on the seed, the round and the case's name alone."""

    def __init__(self, material: Path, seed: int, turn: int = 0) -> None:
        self.material, self.seed, self.turn = material, seed, turn
        self.places = {name: str(material / path) for name, path in PLACES.items()}

    def draw(self, name: str) -> random.Random:
        """The random generator of a case."""
        return random.Random(f"{self.seed}:{self.turn}:{name}")

    def words(self, command: str, **own: str) -> tuple[str, ...]:
        """A command's words; `own` are places in the case's folder."""
        return tuple(word.format(**{**self.places, **own}) for word in shlex.split(command))

    def case(
        self, family: str, name: str, command: str, change: Change | None, needs: tuple[str, ...] = (),
        status: tuple[int, ...] = (2,), says: tuple[str, ...] = (), **more: Any,
    ) -> Case:  # fmt: skip
        """A case of a command, with copies of what it `needs`, which `change` damages."""
        words, makes = COMMANDS[command]
        own = {name: PLACES[name] for name in needs}

        def prepare(folder: Path) -> None:
            copy(self.material, folder, *needs)
            if "own.yaml" in own.values():
                tree = suite_tree if "{suite}" in words else recipe_tree
                (folder / "own.yaml").write_text(yaml.safe_dump(tree(self.places["text"], "model")), encoding="utf-8")
            if change is not None:
                change(folder)

        if "model" in needs:  # what a recipe or a suite names is the copy
            own |= {"recipe": "own.yaml", "suite": "own.yaml"}
        keeps = KEEPS + (
            STAGES if command in ("run", "compare", "train") else AGAIN if command.endswith("again") else ()
        )
        return Case(
            f"{family}: {command}: {name}", self.words(words, **own), prepare, status, says,
            makes if 0 in status else (), keeps, **more,
        )  # fmt: skip

    def control(self, family: str, command: str, needs: tuple[str, ...] = (), **more: Any) -> Case:
        """A case that must succeed."""
        return self.case(family, "control", command, None, needs, (0,), **more)

    def damage(self, name: str, file: str, fault: faults.Fault) -> Change:
        """A change of one file of a case's folder."""
        return lambda folder: fault(folder / file, self.draw(name))


def of_model_files(tables: Tables) -> Iterator[Case]:
    """JSON files of a model's folder."""
    readers = ("show", "inherit", "choose", "new", "evaluate", "analyze", "train", "prepare", "plan", "dry run", "run",
               "compare", "price")  # fmt: skip
    no_tokenizer = ("show", "new", "plan", "dry run", "price")
    for command in readers:
        yield tables.control("model", command, ("model",))
    yield tables.control("model", "push model", ("model",))
    for command in (*readers, "push model"):
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"):
            reads = file == "config.json" and command not in ("prepare", "push model")
            reads = reads or (file == "tokenizer.json" and command not in (*no_tokenizer, "inherit", "push model"))
            for table, certain in ((faults.PLACES, reads), (faults.NO_JSON, reads), (faults.ODD_JSON, False)):
                for name, fault in table.items():
                    if file == "README.md" and table is faults.ODD_JSON:
                        continue
                    title = f"{file}: {name}"
                    yield tables.case(
                        "model", title, command, tables.damage(title, f"model/{file}", fault), ("model",),
                        (2,) if certain else (0, 2), says=(f"{file}|config|tokenizer|model",),
                    )  # fmt: skip


_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "head_dim", "max_position_embeddings", "hidden_act", "rms_norm_eps", "rope_parameters",
           "model_type", "architectures", "dtype", "tie_word_embeddings", "attention_bias", "eos_token_id", "bos_token_id",
           "pad_token_id", "attention_dropout", "initializer_range", "quantization_config", "auto_map", "layer_types",
           "sliding_window", "_attn_implementation", "torch_dtype", "rope_scaling", "num_labels", "id2label", "is_encoder_decoder",
           "text_config", "transformers_version", "pretraining_tp", "rope_theta", "mlp_bias", "use_cache", "_name_or_path",
           "attn_implementation", "return_dict", "output_attentions", "chunk_size_feed_forward")  # fmt: skip
_FIELD_VALUES = [*faults.VALUES, 10**9, 7, 48, 1e300, "silu", "float32", "bert", {"rope_type": "x"}, {"rope_type": "yarn"}, ["full_attention"], ["x"] * 3, {"quant_method": "gptq"}]  # fmt: skip


def of_config_fields(tables: Tables) -> Iterator[Case]:
    """Fields of config.json with other values."""

    def field(folder: Path, key: str, value: Any) -> None:
        edit_json(folder / "model" / "config.json", lambda tree: tree.update({key: value}))

    for command in ("show", "inherit", "evaluate", "train", "dry run", "plan", "analyze", "half"):
        if command in ("show", "half"):
            yield tables.control("config", command, ("model",))
        for key in _FIELDS:
            for number in sorted(tables.draw(f"{command}: {key}").sample(range(len(_FIELD_VALUES)), 8)):
                value = _FIELD_VALUES[number]
                yield tables.case(
                    "config", f"{key}: {number}: {value!r:.40}", command, partial(field, key=key, value=value), ("model",), (0, 2),
                    says=("config|model",),
                )  # fmt: skip


def of_weights(tables: Tables) -> Iterator[Case]:
    """Headers and data of safetensors files, and the index."""
    for command in ("inherit", "half", "evaluate", "train", "analyze", "run"):
        if command in ("inherit", "run"):
            yield tables.control("weights", command, ("model",))
        file = "model.safetensors"
        benign = ("data with more behind", "metadata of another program", "a name with a NUL", "a header of spaces")
        places = faults.PLACES | faults.BYTES
        for name, fault in (places | faults.SAFETENSORS).items():
            unsure = name in benign or name.startswith(("shape [1, ", "dtype F8", "dtype I64", "a tensor of another"))
            yield tables.case(
                "weights", name, command, tables.damage(name, f"model/{file}", fault), ("model",), (0, 2) if unsure else (2,),
                says=(f"{file}|weights",),
            )  # fmt: skip
    for command in ("inherit", "evaluate"):
        words, makes = COMMANDS[command]
        yield Case(
            f"index: {command}: control",
            tables.words(words, model="sharded"),
            _copier(tables, "sharded"),
            (0,),
            makes=makes,
        )
        for file in ("model.safetensors.index.json", "model-00002-of-00003.safetensors"):
            table = faults.PLACES | (faults.NO_JSON | faults.ODD_JSON if file.endswith("json") else faults.SAFETENSORS)
            for name, fault in table.items():
                title = f"index: {command}: {file}: {name}"
                yield Case(
                    title, tables.words(words, model="sharded"), _copier(tables, "sharded", tables.damage(title, f"sharded/{file}", fault)),
                    (0, 2), says=("safetensors|weights|sharded",), keeps=KEEPS,
                )  # fmt: skip


def _copier(tables: Tables, name: str, change: Change | None = None) -> Change:
    def prepare(folder: Path) -> None:
        copy(tables.material, folder, name)
        if change is not None:
            change(folder)

    return prepare


def of_gguf(tables: Tables) -> Iterator[Case]:
    """A .gguf file."""
    for command in ("show", "inherit", "evaluate", "new"):
        words, makes = COMMANDS[command]
        named = tables.words(words, model="tiny.gguf")
        yield Case(f"gguf: {command}: control", named, _copier(tables, "gguf"), (0,), makes=makes)
        for name, fault in (faults.PLACES | faults.BYTES | faults.GGUF).items():
            title = f"gguf: {command}: {name}"
            certain = name in faults.PLACES or name in faults.BYTES
            yield Case(
                title, named, _copier(tables, "gguf", tables.damage(title, "tiny.gguf", fault)), (2,) if certain else (0, 2),
                says=("tiny.gguf|positions",), keeps=KEEPS,
            )  # fmt: skip


def of_results(tables: Tables) -> Iterator[Case]:
    """Folders that the program itself has written, damaged later."""
    table = [
        ("data", "manifest.json", ("train", "sample")), ("data", "train-00000.bin", ("train",)),
        ("data", "validation-00000.bin", ("train",)), ("data", "tokenizer/tokenizer.json", ("train", "sample")),
        ("trained", "checkpoints/step-000000002/checkpoint.json", ("export", "train again")),
        ("trained", "checkpoints/step-000000002/shard-00001-model-00001-of-00001.safetensors", ("export",)),
        ("trained", "checkpoints/frame/config.json", ("export", "train again")),
        ("trained", "request.json", ("train again",)), ("trained", "training.json", ("train again", "export")),
        ("trained", "evaluation.json", ("train again",)), ("trained", "metrics.jsonl", ("train again",)),
        ("run", "summary.json", ("report", "push", "evaluate run", "run again")), ("run", "manifest.json", ("report", "run again")),
        ("run", "recipe.yaml", ("report", "push", "evaluate run")), ("run", "data/manifest.json", ("evaluate run", "run again", "report")),
        ("run", "rounds/1-1layers/evaluation.json", ("report", "push", "run again")),
        ("run", "rounds/1-1layers/metrics.jsonl", ("report", "run again")),
        ("run", "rounds/1-1layers/training.json", ("report", "push", "run again")),
        ("run", "rounds/1-1layers/model/config.json", ("push", "evaluate run")),
        ("run", "rounds/1-1layers/model/README.md", ("push",)), ("run", "reference/evaluation.json", ("report", "run again")),
        ("run", "reference/origin.json", ("push", "run again")), ("run", "rounds/1-1layers/inherited.json", ("report", "run again")),
        ("analysis", "analysis.json", ("report analysis",)), ("analysis", "maps-0.npz", ("report analysis",)),
    ]  # fmt: skip
    for command in ("train", "sample", "export", "report", "push", "evaluate run", "report analysis"):
        needs = next(name for name, _, commands in table if command in commands)
        yield tables.control("results", command, (needs,))
    for needs, file, commands in table:
        damage = faults.PLACES | faults.BYTES
        if file.endswith((".json", ".jsonl", ".yaml", ".md")):
            damage |= faults.NO_JSON | (faults.ODD_JSON if file.endswith(".json") else {})
        for command in commands:
            for name, fault in damage.items():
                title = f"{file}: {name}"
                yield tables.case(
                    "results", title, command, tables.damage(title, f"{PLACES[needs]}/{file}", fault), (needs,), (0, 2),
                    says=(f"{file.rpartition('/')[2]}|{PLACES[needs]}|nothing to judge on",),
                )  # fmt: skip


_REAL = ("missing", "a pipe", "keys twice", "NUL", "10,000 levels", "not UTF-8", "a tag of Python", "empty")


def of_recipe_files(tables: Tables) -> Iterator[Case]:
    """Recipes and suites as files."""
    odd: dict[str, bytes] = {
        "a list": b"- a\n", "a text": b"text\n", "a number": b"5\n", "empty": b"", "a comment": b"# nothing\n", "null": b"null\n",
        "two documents": b"seed: 1\n---\nseed: 2\n", "not UTF-8": b"seed: \xff\n", "UTF-16": "seed: 1\n".encode("utf-16"), "tabs": b"data:\n\tsize: 1\n",
        "a tag of Python": b"seed: !!python/object/apply:os.system [true]\n", "an unknown tag": b"seed: !x 1\n", "binary": b"seed: !!binary aGVsbG8=\n",
        "a set": b"seed: !!set {a, b}\n", "pairs": b"seed: !!pairs [a: b]\n", "an ordered mapping": b"seed: !!omap [a: b]\n", "a date": b"seed: 2024-01-01\n",
        "bad base64": b"seed: !!binary '***'\n", "a bad integer": b"seed: !!int x\n", "a bad float": b"seed: !!float x\n", "a bad date": b"seed: !!timestamp x\n",
        "an undefined alias": b"seed: *a\n", "an alias in itself": b"a: &a\n  - *a\n", "keys twice": b"seed: 1\nseed: 2\n", "a key that is a list": b"[a, b]: 1\n",
        "a key that is null": b"~: 1\n", "a key that is a mapping": b"{a: b}: 1\n", "merge of a number": b"<<: 5\n", "merge of itself": b"a: &a {<<: *a}\n",
        "not closed": b"data: {size: [1, 2\n", "a directive": b"%YAML 9.9\n---\nseed: 1\n", "NUL": b"seed: 1\0\n", "an escape": b"seed: \"\x1b[31m\"\n",
        "10,000 levels": b"a: " + b"[" * 10_000, "a megabyte": b"a: " + b"x" * 1_000_000, "a long key": b"k" * 100_000 + b": 1\n",
        "base of nothing": b"base: nowhere.yaml\n", "base of itself": b"base: recipe.yaml\n", "base of a folder": b"base: .\n", "base of a list": b"base: [a]\n",
        "base of a device": b"base: /dev/zero\n", "base with a NUL": b"base: \"a\\0b\"\n", "base of a long name": b"base: " + b"x" * 5000 + b"\n",
        "a surrogate": b"seed: \"\\ud800\"\n", "an octal": b"seed: 0o17\n", "sexagesimal": b"seed: 1:30:00\n", "a long integer": b"seed: " + b"9" * 6000 + b"\n",
        "no keys of ours": b"model: gpt2\n", "carriage returns": b"seed: 1\rdata: x\r", "a byte order mark": b"\xef\xbb\xbfseed: 1\n",
    }  # fmt: skip
    for command, needs in (
        ("run", "recipe"),
        ("plan", "recipe"),
        ("dry run", "recipe"),
        ("compare", "suite"),
        ("price", "suite"),
    ):
        yield tables.control("recipe file", command, (needs,))
        file = PLACES[needs]
        table = faults.PLACES | {name: faults.put(content) for name, content in odd.items()} | {
            "cut short": faults.changed(lambda content, draw: content[: draw.randrange(1, len(content) // 2)]),
            "flipped bits": faults.changed(faults.flipped),
        }  # fmt: skip
        for name, fault in table.items():
            yield tables.case(
                "recipe file", name, command, tables.damage(name, file, fault), (needs,), (0, 2) if name == "flipped bits" else (2,),
                says=(f"{file}|nowhere|.yaml|/dev/zero|x|cannot be read",), real=command == "run" and name in _REAL,
            )  # fmt: skip
    bench = ("bench", "--recipe", "recipe.yaml", "--device", "cpu", "--steps", "5", "--quiet")
    for name, content in odd.items():
        yield Case(
            f"recipe file: bench: {name}",
            bench,
            lambda folder, content=content: (folder / "recipe.yaml").write_bytes(content),
        )
        prepare = ("prepare", "recipe.yaml", "--out", "out", "--quiet")
        yield Case(
            f"recipe file: prepare: {name}",
            prepare,
            lambda folder, content=content: (folder / "recipe.yaml").write_bytes(content),
            keeps=KEEPS,
        )


FAMILIES: dict[str, tuple[int, Callable[[Tables], Iterator[Case]]]] = {
    "model files": (4, of_model_files),
    "config fields": (4, of_config_fields),
    "weights": (3, of_weights),
    "gguf": (3, of_gguf),
    "results": (3, of_results),
    "recipe files": (2, of_recipe_files),
    "texts": (3, texts.cases),
    "arguments": (3, arguments.of_words),
    "environments": (2, arguments.of_environments),
    "recipe keys": (8, fuzz.cases),
}
"""Families of cases, with their shares."""


def select(material: Path, count: int, seed: int) -> list[Case]:
    """`count` different cases: the controls, and of each family its share, drawn with the seed.

    Where a family has no more, it begins again with other draws.
    """
    controls: list[Case] = []
    rows: list[list[Case]] = []
    for name, (share, family) in FAMILIES.items():
        every = list(family(Tables(material, seed)))
        fixed = [case for case in every if case.name.endswith(": control") or case.real]
        controls += fixed
        wanted, row = -(-count * share // sum(share for share, _ in FAMILIES.values())), []
        for turn in range(1000):
            more = every if turn == 0 else list(family(Tables(material, seed, turn)))
            more = [case for case in more if not case.name.endswith(": control") and not case.real]
            if turn:
                more = [replace(case, name=f"{case.name} (turn {turn})") for case in more]
            random.Random(f"{seed}:{name}:{turn}").shuffle(more)
            row += more
            if len(row) >= wanted:
                break
        rows.append(row[:wanted])
    drawn = [case for row in rows for case in row]
    random.Random(seed).shuffle(drawn)
    found = controls + drawn[: max(0, count - len(controls))]
    random.Random(seed).shuffle(found)
    return found
