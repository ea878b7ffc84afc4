"""What is computed once: results that are read back, and what several comparisons share."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from inheritune.errors import DamagedFile
from inheritune.experiment.store import Shared, once
from inheritune.experiment.suite import Suite
from inheritune.results import Samples
from inheritune.runtime import Runtime
from tiny_suites import tiny_suite

ALONE = Runtime("cpu", 1)
MADE = Samples(prompts=["the"], models=[], new_tokens=4)


class Second(Runtime):
    """The second of two processes: what rank 0 does is not done here, and its answer comes from there."""

    def on_rank0(self, work: Any) -> Any:
        return None


def test_a_result_is_computed_once_and_read_back(tmp_path: Path) -> None:
    file, calls = tmp_path / "samples.json", []

    def make() -> Samples:
        calls.append(1)
        return MADE

    assert [once(ALONE, file, Samples, make) for _ in range(3)] == [MADE] * 3
    assert len(calls) == 1
    file.unlink()
    assert once(ALONE, file, Samples, make) == MADE
    assert len(calls) == 2


def test_every_process_computes_and_the_first_one_writes(tmp_path: Path) -> None:
    second = Second("cpu", 1, rank=1, world_size=2)
    assert once(second, tmp_path / "samples.json", Samples, lambda: MADE) == MADE
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_and_damage_is_not_computed_over(tmp_path: Path) -> None:
    file = tmp_path / "samples.json"

    def fail() -> Samples:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        once(ALONE, file, Samples, fail)
    assert not file.exists()
    file.write_text('{"prompts": ["the"]}', encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"samples\.json: damaged: it has no 'models'; delete it"):
        once(ALONE, file, Samples, fail)


def test_a_result_whose_model_is_gone_is_not_done(tmp_path: Path) -> None:
    file, model = tmp_path / "samples.json", tmp_path / "model"
    MADE.write(file)
    again = MADE.model_copy(update={"new_tokens": 5})
    assert once(ALONE, file, Samples, lambda: again, model) == again
    model.mkdir()
    assert once(ALONE, file, Samples, lambda: MADE, model) == Samples.read(file) == again


@pytest.fixture
def suite(tmp_path: Path, text: Path) -> Suite:
    shutil.copytree(text, tmp_path / "text")
    return Suite.model_validate(tiny_suite(tmp_path / "text", None, [{"name": "it", "start": "random"}]))


def changed(suite: Suite, **more: Any) -> Suite:
    return suite.model_copy(update=more)


def test_text_and_reference_have_a_folder_by_what_they_depend_on(suite: Suite, tmp_path: Path) -> None:
    def places(basis: Suite, of: str) -> tuple[Path, Path]:
        shared = Shared(tmp_path / "shared", tmp_path / of)
        data = shared.data(basis, basis.data)
        return data, shared.reference(basis, data)

    data, reference = places(suite, "one")
    assert data.parent == reference.parent == tmp_path / "shared"
    assert places(suite, "two") == (data, reference)
    for name, more in {
        "tolerance": {"evaluate": suite.evaluate.model_copy(update={"tolerance": 0.5})},
        "workers": {"data": suite.data.model_copy(update={"workers": 3})},
    }.items():
        assert places(changed(suite, **more), name) == (data, reference), name
    for name, more in {
        "seed": {"seed": 7}, "size": {"data": suite.data.model_copy(update={"size": suite.data.validation})},
    }.items():  # fmt: skip
        other = places(changed(suite, **more), name)
        assert other[0] != data, name
        assert other[1] != reference, name
    longer = suite.train.model_copy(update={"sequence_length": 8})
    assert places(changed(suite, train=longer), "shorter")[0] == data  # the same text, in other pieces
    assert places(changed(suite, train=longer), "shorter")[1] != reference


def test_a_comparison_keeps_the_text_that_it_has_started_with(suite: Suite, tmp_path: Path) -> None:
    started = Shared(tmp_path / "shared", tmp_path / "out").data(suite, suite.data)
    file = next((tmp_path / "text").iterdir())
    file.write_text("another document", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    assert Shared(tmp_path / "shared", tmp_path / "out").data(suite, suite.data) == started
    assert Shared(tmp_path / "shared", tmp_path / "new").data(suite, suite.data) != started


def test_arms_with_one_spec_are_one_folder(tmp_path: Path) -> None:
    shared, spec = Shared(tmp_path / "shared", tmp_path), {"start": "lazy", "seed": 1}
    one, other, third = (tmp_path / name / "arms" / "it" / "seed-1" for name in ("one", "other", "third"))
    assert not shared.arm(one, spec)
    assert not shared.arm(other, dict(reversed(spec.items())))
    assert one.resolve() == other.resolve()
    (one / "result.json").write_text("{}", encoding="utf-8")
    assert shared.arm(third, spec)
    assert (third / "result.json").exists()
    assert not shared.arm(tmp_path / "seed" / "seed-2", spec | {"seed": 2})
    shutil.rmtree(one.resolve())  # taken away: the link leads nowhere, and is made anew
    assert not shared.arm(one, spec)
    assert one.is_dir()


def test_an_arm_that_was_started_in_its_own_folder_stays_there(tmp_path: Path) -> None:
    own = tmp_path / "out" / "seed-1"
    own.mkdir(parents=True)
    assert not Shared(tmp_path / "shared", tmp_path).arm(own, {"seed": 1})
    assert not own.is_symlink()
