"""The attack can fail: a program that behaves badly, in each way that it looks for, is reported."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.attack import worker
from tests.attack.worker import Case

pytestmark = pytest.mark.long

GOOD = "error: a.yaml: got 5; give a text"


def bad(words: list[str]) -> int:
    """A program that does what its first word says."""
    kind = words[0]
    if kind in ("half", "left", "changed"):
        Path({"half": ".out.partial", "left": "out", "changed": "given"}[kind]).write_text("half")
    if kind == "hangs":
        time.sleep(60)
    if kind == "spins":
        until = time.process_time() + worker.SECONDS + 0.5
        while time.process_time() < until:
            pass
    if kind == "memory":
        bytearray(b"x") * (worker.MEMORY + (100 << 20))
    if kind == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raises":
        raise RuntimeError("no")
    if kind == "prints":
        print("some results")
    said = {
        "traceback": "Traceback (most recent call last):\n  File", "internal": "error: a fault in inheritune or a library: KeyError; x",
        "no remedy": "error: a.yaml: got 5", "silent": "", "two lines": GOOD + "\nby the way", "long": GOOD + "x" * 5000,
    }  # fmt: skip
    print(said.get(kind, GOOD), file=sys.stderr)
    return {"one": 1, "succeeds": 0, "half": 0}.get(kind, 2)


FOUND = {
    "half": "left half-made: .out.partial", "left": "left behind or changed: out", "changed": "left behind or changed: given",
    "hangs": "not at its end after", "spins": "s of a processor", "memory": "MB more than the imports", "crashes": "ended by SIGKILL",
    "raises": "status 98", "prints": "standard output of what failed", "traceback": "it says 'Traceback", "internal": "it says 'a fault in inheritune'",
    "no remedy": "no place or no remedy", "silent": "no error is said", "two lines": "a line that is no error or warning", "long": "characters are said",
    "one": "status 1, expected 2", "succeeds": "status 0, expected 2", "not named": "it does not say 'b.yaml'",
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is wrong with each call of the bad program, and with a good one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "WALL", 8)
        patch.setattr(worker, "SECONDS", 1)
        cases = [
            Case(
                kind, (kind,), lambda folder: (folder / "given").write_text("x"), (0, 2) if kind == "half" else (2,),
                ("b.yaml" if kind == "not named" else "a.yaml|half|Traceback|internal|fault",),
            )
            for kind in [*FOUND, "fine"]
        ]  # fmt: skip
        folder = tmp_path_factory.mktemp("cases")
        return {case.name: worker.judge(case, outcome) for case, outcome in worker.run_all(cases, folder, 2, bad)}


@pytest.mark.parametrize("kind", FOUND)
def test_it_is_reported(kind: str, reported: dict[str, list[str]]) -> None:
    assert any(FOUND[kind] in wrong for wrong in reported[kind]), reported[kind]


def test_a_good_refusal_is_not(reported: dict[str, list[str]]) -> None:
    assert reported["fine"] == []


def test_a_full_disk_and_closed_descriptors_are_what_the_program_meets(tmp_path: Path) -> None:
    def program(words: list[str]) -> int:
        if words == ["closed"]:
            return 0 if sys.stderr is None else 3
        try:
            Path("large").write_bytes(b"x" * 5000)
        except OSError:
            Path("large").unlink()
            return 0
        return 3

    cases = [
        Case("full", ("full",), status=(0,), file_bytes=1000),
        Case("closed", ("closed",), status=(0,), closed=(2,)),
    ]
    for case, outcome in worker.run_all(cases, tmp_path, 1, program):
        assert worker.judge(case, outcome) == [], case.name


def test_the_same_seed_gives_the_same_cases_and_each_family_has_a_control(tmp_path: Path) -> None:
    from tests.attack import inputs

    first, again, other = (inputs.select(tmp_path, 400, seed) for seed in (1, 1, 2))
    assert [case.name for case in first] == [case.name for case in again] != [case.name for case in other]
    assert len(first) == 400
    assert len({case.name for case in first}) == 400
    for name, (_, family) in inputs.FAMILIES.items():
        tables = inputs.Tables(tmp_path, 1)
        assert any(case.name.endswith("control") for case in family(tables)), name
