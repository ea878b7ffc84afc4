"""The help texts: commands in groups, and examples for each command."""

from typing import Any

from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

GROUPS: dict[str, tuple[str, ...]] = {
    "Start here": ("new", "plan", "run"),
    "Single stages": ("prepare", "inherit", "train", "export"),
    "Look and compare": ("analyze", "evaluate", "compare", "report", "bench"),
    "Publish": ("push",),
}
"""The commands in the order of `inheritune --help`."""
EXAMPLES: dict[str, tuple[str, ...]] = {
    "new": ("inheritune new HuggingFaceTB/SmolLM2-135M", "inheritune new model.gguf recipe.yaml --text text/"),
    "plan": ("inheritune plan recipe.yaml", "inheritune plan recipe.yaml --inherit.layers=10 --json"),
    "run": ("inheritune run recipe.yaml", 'inheritune run recipe.yaml --train.length="2 epochs" --seed=2'),
    "prepare": (
        'inheritune prepare text/ --tokenizer gpt2 --size "10M tokens" --out shards',
        "inheritune prepare recipe.yaml --out shards",
    ),
    "inherit": (
        "inheritune inherit HuggingFaceTB/SmolLM2-135M small --layers 15",
        "inheritune inherit model.gguf small --layers 0-2,8-11,20-24,27-29 --text text/",
        "inheritune inherit model/ small --layers 20 --mlp 1024 --heads 6 --text text/",
        "inheritune inherit model/ small --layers all --vocabulary text --text text/",
        "inheritune inherit model/ --layers 20 --mlp 1024 --show",
    ),
    "train": ('inheritune train small trained --data shards --length "10M tokens"',),
    "export": (
        "inheritune export trained/checkpoints/best model",
        "inheritune export runs/smaller smaller.gguf --gguf q8_0",
    ),
    "analyze": (
        "inheritune analyze model/ --text text/ --out page",
        "inheritune analyze model/ --text text/ --choose auto --layers 15",
    ),
    "evaluate": (
        "inheritune evaluate model/ small/ --text text/",
        "inheritune evaluate model/ --tasks arc_easy,lambada_openai",
    ),
    "compare": ("inheritune compare suite.yaml",),
    "report": ("inheritune report runs/recipe",),
    "bench": ("inheritune bench", "inheritune bench --shape openllama-1.5b --json"),
    "push": (
        "inheritune push runs/recipe/rounds/1-15layers/model user/small",
        "inheritune push model/ user/small --really",
    ),
}  # fmt: skip
"""Commands as they are typed, for the help of each command."""


class Command(TyperCommand):
    """A command whose help ends with examples."""

    @override
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):
            for example in EXAMPLES[str(self.name)]:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Group(TyperGroup):
    """The program: its help lists the commands in groups, with whole summaries."""

    @override
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(name) for names in GROUPS.values() for name in names)
        for title, names in GROUPS.items():
            rows = [(f"{name:{width}}", (self.commands[name].help or "").split("\n\n")[0]) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, " ".join(summary.split())) for name, summary in rows])
