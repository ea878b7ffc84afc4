"""The arithmetic of docs/scaling.md: memory, bytes moved, expected MFU; and host memory, which is measured.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --host-memory [--processes 4] [--blocks 80]

The first needs Python alone and prints the tables that stand there. The second runs a recipe with FSDP in several
processes on the CPU (gloo), on a random model of 1 GB or more, and prints the largest PSS of all processes together.
GB are 10^9 bytes.
"""

import argparse
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

T = 2048  # tokens a sequence
GPUS_A_NODE = 8

# assumed of the hardware: an H100 or H200 with NVLink, eight 400 Gbit/s InfiniBand adapters a node
PEAK = 989e12  # dense bf16 FLOP/s
COMPUTE_MFU = 0.50  # of a GPU that waits for nobody; an assumption
NVLINK = 450e9  # bytes/s in each direction, a GPU
ADAPTER = 50e9  # bytes/s, one a GPU
RING_HOP, RING_HOP_NETWORK = 3.4e-6, 14e-6  # seconds a step; NCCL's own model for its choice of algorithm ("Simple")
TREE_HOP, TREE_HOP_NETWORK = 4e-6, 14e-6
BUCKET = 25 * 2**20  # bytes of gradients in one all-reduce of DDP, torch's default

# bytes a parameter
WEIGHT, GRADIENT, ADAMW = 4, 4, 8
CAST = 2  # bfloat16

# bytes a token and logit: float32 log-probabilities, their gradient, and the gradient in bfloat16
LOGIT = 4 + 4 + 2


@dataclass(frozen=True)
class Shape:
    """A Llama: embedding, blocks of attention and gated MLP with two norms each, norm, untied head."""

    name: str
    hidden: int
    mlp: int
    blocks: int
    heads: int
    vocabulary: int

    @property
    def short(self) -> str:
        return self.name.partition(":")[0]

    @property
    def block(self) -> int:
        return 4 * self.hidden**2 + 3 * self.hidden * self.mlp + 2 * self.hidden

    @property
    def in_blocks(self) -> int:
        return self.blocks * self.block

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def outside(self) -> int:
        return 2 * self.embedding + self.hidden

    @property
    def parameters(self) -> int:
        return self.in_blocks + self.outside

    @property
    def flops(self) -> int:
        """A token of training: 6 x parameters without the input embedding + 12 x blocks x hidden x length."""
        return 6 * (self.parameters - self.embedding) + 12 * self.blocks * self.hidden * T

    def kept(self, is_sharded: bool) -> int:
        """Bytes that a block keeps of a token for the backward pass, counted tensor by tensor, not compiled.

        Autocast keeps the sum of the blocks' outputs in float32 and casts it for each product; FSDP's policy has it
        in bfloat16.
        """
        return (24 if is_sharded else 34) * self.hidden + 8 * self.mlp

    def activations(self, sequences: int, is_sharded: bool, checkpointed: bool) -> int:
        tokens = sequences * T
        if checkpointed:  # each block's input, and one block in full
            return tokens * (self.blocks * (2 if is_sharded else 4) * self.hidden + self.kept(is_sharded))
        return tokens * self.blocks * self.kept(is_sharded)

    def logits(self, sequences: int) -> int:
        return sequences * T * self.vocabulary * LOGIT


SMALL = Shape("1.8B: 13 blocks of OpenLLaMA-3B", 3200, 8640, 13, 32, 32000)
LARGE = Shape("7B: 32 blocks", 4096, 11008, 32, 32, 32000)
REFERENCE = Shape("3.4B: OpenLLaMA-3B, 26 blocks", 3200, 8640, 26, 32, 32000)


def gb(count: float) -> str:
    return f"{count / 1e9:.1f}"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    cells = list(head)
    print(f"### {title}\n")
    print("| " + " | ".join(cells) + " |")
    print("|" + " --- |" * len(cells))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def shapes() -> None:
    rows = (
        [
            s.name, f"{s.parameters:,}", f"{s.block:,}", f"{s.outside:,}", f"{s.flops / 1e9:.2f} G",
            gb((WEIGHT + ADAMW) * s.parameters), gb(WEIGHT * s.parameters),
        ]
        for s in (SMALL, LARGE, REFERENCE)
    )  # fmt: skip
    head = ["shape", "parameters", "in a block", "outside", "FLOPs a token", "checkpoint, GB", "best, GB"]
    table("Shapes", head, rows)


def memory() -> None:
    rows = []
    for s in (SMALL, LARGE):
        for gpus, sequences in ((8, 4), (512, 1)):
            held = [4 * s.parameters / gpus, 4 * s.parameters / gpus, 8 * s.parameters / gpus]
            # gathered: what lies outside the blocks (kept until the backward pass is over), a block, and the next one;
            # gradients on their way: of the largest part, in bfloat16 and in float32
            passing = CAST * (s.outside + 2 * s.block) + (CAST + GRADIENT) * max(s.outside, s.block)
            for checkpointed in (False, True):
                rest = [passing, s.activations(sequences, True, checkpointed), s.logits(sequences)]
                rows.append([
                    s.short, "fsdp", str(gpus), str(sequences), "yes" if checkpointed else "no",
                    *map(gb, held), *map(gb, rest), gb(sum(held) + sum(rest)),
                ])  # fmt: skip
        for checkpointed in (False, True):
            held = [4 * s.parameters, 4 * s.parameters, 8 * s.parameters]
            rest = [CAST * (s.parameters - s.embedding), s.activations(1, False, checkpointed), s.logits(1)]
            rows.append([
                s.short, "ddp", "any", "1", "yes" if checkpointed else "no",
                *map(gb, held), *map(gb, rest), gb(sum(held) + sum(rest)),
            ])  # fmt: skip
    head = [
        "target", "parallel", "GPUs", "sequences", "checkpointing", "weights", "gradients", "states", "bf16 copies",
        "activations", "logits", "sum",
    ]  # fmt: skip
    table("Memory of a GPU, GB", head, rows)


def host() -> None:
    copies = (1, GPUS_A_NODE)  # with fsdp the first process alone has the model, with ddp each
    rows = ([s.name, *(gb(count * WEIGHT * s.parameters) for count in copies)] for s in (SMALL, LARGE, REFERENCE))
    head = ["model", "one process, or fsdp", f"{GPUS_A_NODE} processes with ddp"]
    table("Memory of a node's host while a model is built or judged, float32, GB", head, rows)


@dataclass(frozen=True)
class Traffic:
    """What a GPU receives in a step, and the seconds it takes where nothing else goes on."""

    inside: float  # bytes over NVLink alone
    across: float  # bytes over links that nodes share in
    seconds_inside: float
    seconds_across: float


def ring(bytes_: float, gpus: int, times: int) -> float:
    """Seconds of `times` all-gathers or reduce-scatters over all GPUs that together are `bytes_` whole."""
    nodes = -(-gpus // GPUS_A_NODE)
    speed = NVLINK if nodes == 1 else GPUS_A_NODE * ADAPTER  # a ring for each adapter
    hops = (gpus - nodes) * RING_HOP + (nodes - 1) * RING_HOP_NETWORK
    return (gpus - 1) / gpus * bytes_ / speed + times * hops


def fsdp_bytes(s: Shape) -> tuple[float, int]:
    """Of a micro-batch: blocks gathered twice, the rest once, in bfloat16; gradients reduced in float32."""
    return CAST * (2 * s.in_blocks + s.outside) + GRADIENT * s.parameters, 3 * s.blocks + 2


def fsdp(s: Shape, gpus: int, micro_batches: int) -> Traffic:
    bytes_, times = fsdp_bytes(s)
    seconds = micro_batches * ring(bytes_, gpus, times)
    moved = micro_batches * (gpus - 1) / gpus * bytes_
    return Traffic(moved, 0, seconds, 0) if gpus <= GPUS_A_NODE else Traffic(0, moved, 0, seconds)


def ddp(s: Shape, gpus: int) -> Traffic:
    """Gradients in float32, once a step: bucket by bucket, in a ring inside a node, along trees between nodes."""
    bytes_ = GRADIENT * s.parameters
    moved = 2 * (gpus - 1) / gpus * bytes_
    nodes, buckets = -(-gpus // GPUS_A_NODE), math.ceil(bytes_ / BUCKET)
    if nodes == 1:
        return Traffic(moved, 0, moved / NVLINK + buckets * 2 * (gpus - 1) * RING_HOP, 0)
    hops = 2 * ((GPUS_A_NODE - 1) * TREE_HOP + math.ceil(math.log2(nodes)) * TREE_HOP_NETWORK)
    return Traffic(0, moved, 0, moved / (GPUS_A_NODE * ADAPTER) + buckets * hops)


def hybrid(s: Shape, gpus: int, micro_batches: int) -> Traffic:
    """Sharded inside a node, as FSDP there; the shards' gradients summed between nodes once a step."""
    here = fsdp(s, GPUS_A_NODE, micro_batches)
    nodes = gpus // GPUS_A_NODE
    moved = 2 * (nodes - 1) / nodes * GRADIENT * s.parameters / GPUS_A_NODE
    hops = (s.blocks + 1) * 2 * math.ceil(math.log2(nodes)) * TREE_HOP_NETWORK
    return Traffic(here.inside, moved, here.seconds_inside, moved / ADAPTER + hops)


def steps() -> None:
    rows = []
    for s in (SMALL, LARGE):
        for gpus, batch, sequences in ((8, 2**20, 4), (512, 2**20, 1), (512, 2**22, 4)):
            share = batch // T // gpus
            micro_batches = share // sequences
            compute = share * T * s.flops / (PEAK * COMPUTE_MFU)
            last = 2 / 3 * compute / micro_batches  # the backward pass that DDP's gradients travel beside
            ways = {"fsdp": fsdp(s, gpus, micro_batches), "ddp": ddp(s, gpus)}
            if gpus > GPUS_A_NODE:
                ways["hybrid, not built"] = hybrid(s, gpus, micro_batches)
            for name, traffic in ways.items():
                waiting = traffic.seconds_inside + traffic.seconds_across
                if name == "fsdp":
                    beside = max(compute, waiting)
                else:  # what crosses nodes once a step waits for the last micro-batch's gradients
                    once = waiting if name == "ddp" else traffic.seconds_across
                    beside = max(compute - last + max(last, once), traffic.seconds_inside)
                rows.append([
                    s.short, str(gpus), f"{batch / 2**20:.0f}M", f"{micro_batches} x {sequences}", name,
                    gb(traffic.inside + traffic.across), ms(waiting), ms(compute),
                    f"{100 * COMPUTE_MFU * compute / (compute + waiting):.0f} %",
                    f"{100 * COMPUTE_MFU * compute / beside:.0f} %",
                ])  # fmt: skip
    head = [
        "target", "GPUs", "batch, tokens", "micro-batches x sequences", "parallel", "GB moved", "ms moving",
        "ms computing", "MFU, none hidden", "MFU, hidden as far as can be",
    ]  # fmt: skip
    table("A step", head, rows)
    for s in (SMALL, LARGE):
        bytes_, times = fsdp_bytes(s)
        pure = ring(bytes_, 512, 0)
        print(
            f"{s.short}, fsdp on 512 GPUs: {times} collectives a micro-batch, {ms(pure)} ms by bandwidth,"
            f" {ms(ring(0, 512, times))} ms by hops. Weights, gradients and states: {gb(16 * s.parameters)} GB whole,"
            f" {gb(16 * s.parameters / GPUS_A_NODE)} GB divided by {GPUS_A_NODE}."
        )
    print()


RECIPE = """
reference: {reference}
data: {{sources: [{{path: "{{stdlib}}/email", include: ["*.py"]}}], size: 2K tokens, validation: 600 tokens}}
inherit: {{layers: {layers}, choose: first}}
train: {{length: 2 steps, batch: 4 sequences, sequence_length: 16, micro_batch: 1, precision: float32, compile: false}}
grow: null
recovery: paper
hardware: {{parallel: fsdp}}
evaluate: {{every: 2 steps, sequences: 4, analyze: false, prompts: []}}
"""


def pss(group: int) -> int:
    """Bytes of memory of all processes of a session, shared pages divided among those that share them."""
    total = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not process.name.isdecimal() or os.getsid(int(process.name)) != group:
                continue
            line = (process / "smaps_rollup").read_text().partition("\nPss:")[2].split()
            total += int(line[0]) * 1024
    return total


def peaks(recipe: Path, out: Path, processes: int) -> dict[str, int]:
    """The largest PSS by what the run says that it does, as one recipe runs in several processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["-m", "inheritune", "run", str(recipe), "--out", str(out), "--hardware.device=cpu"]
    found: dict[str, int] = {}
    log = out.with_suffix(".log")
    with log.open("w") as told:
        # workers are in sessions of their own, so they are found by their parent
        run = subprocess.Popen([*start, *words], stdout=told, stderr=told, start_new_session=True)
        while run.poll() is None:
            lines = [line for line in log.read_text(errors="replace").splitlines() if ": " in line]
            now = lines[-1].strip()[:60] if lines else "starting"
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
            with contextlib.suppress(OSError):
                taken = sum(pss(int(child)) for child in children.read_text().split())
                found[now] = max(found.get(now, 0), taken)
            time.sleep(0.2)
    if run.returncode:
        sys.exit(log.read_text())
    return found


def host_memory(processes: int, blocks: int) -> None:
    """Measure a run that keeps half of the blocks of a model, 12.6 MB each in float32, beside one on a tiny model.

    Blocks are small, as what FSDP gathers of them would be in a GPU's memory, and is in the host's here.
    """
    import sysconfig

    from transformers import LlamaConfig, LlamaForCausalLM

    from inheritune.data import train_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        texts = sorted((Path(sysconfig.get_path("stdlib")) / "email").glob("*.py"))
        tokenizer = train_tokenizer((file.read_text(encoding="utf-8") for file in texts), 1000)
        measured, stored = {}, 0
        for name, hidden, count in (("tiny", 32, 2), ("large", 512, blocks)):
            folder = Path(scratch) / name
            sizes = {"hidden_size": hidden, "intermediate_size": 171 * hidden // 64, "num_hidden_layers": count}
            model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_attention_heads=8, **sizes))
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            del model
            stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            recipe = folder.with_suffix(".yaml")
            recipe.write_text(RECIPE.format(reference=folder, layers=count // 2))
            measured[name] = peaks(recipe, Path(scratch) / f"{name}-run", processes)
        baseline = max(measured["tiny"].values())
        print(f"{processes} processes, {stored / 1e9:.2f} GB stored, baseline {baseline / 1e9:.2f} GB\n")
        rows = [[name, gb(taken), gb(taken - baseline), f"{(taken - baseline) / stored:.2f}"]
                for name, taken in measured["large"].items()]  # fmt: skip
        table(
            "Host memory, PSS of all processes, GB",
            ["while the last line was", "largest", "over the baseline", "x stored"],
            rows,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host-memory", action="store_true", help="measure host memory")
    parser.add_argument("--processes", type=int, default=4, help="for that; default: 4")
    parser.add_argument("--blocks", type=int, default=80, help="for that; 12.6 MB each; default: 80")
    given = parser.parse_args()
    if given.host_memory:
        host_memory(given.processes, given.blocks)
        sys.exit()
    shapes()
    memory()
    host()
    steps()
