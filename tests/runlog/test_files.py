import errno
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import (
    MetricsLog,
    claimed,
    copy_own,
    is_own,
    locked,
    new_folder,
    note_start,
    one_at_a_time,
    read_json,
    read_metrics,
    write_json,
    write_text,
)
from inheritune.runlog.files import open_to_append


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "a").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "deep" / "a").read_text() == "x"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208 (names are what is compared)


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775)]
)
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    """Also what a library wrote through a temporary file of its own."""
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "out") as partial:
            deep = Path(tempfile.mkdtemp(dir=partial))
            handle, private = tempfile.mkstemp(dir=deep)
            os.close(handle)
            (partial / "plain").write_text("x")
            (partial / "program").write_text("x")
            (partial / "program").chmod(0o700)
    finally:
        os.umask(before)
    out = tmp_path / "out"
    inner = out / deep.name
    assert [path.stat().st_mode & 0o777 for path in (out / "plain", inner / Path(private).name)] == [file, file]
    assert [path.stat().st_mode & 0o777 for path in (out, inner)] == [folder, folder]
    assert (out / "program").stat().st_mode & 0o700 == 0o700
    assert sorted(path.name for path in out.iterdir()) == sorted(["plain", "program", deep.name])


def test_an_old_folder_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert (tmp_path / "out" / "old").exists()
    with new_folder(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "half").write_text("x")
    with new_folder(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []
    assert not left.exists()


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    write_text(tmp_path / "a.json", '{"x":')
    with pytest.raises(DamagedFile, match=r"a\.json: damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))


def test_metrics_drop_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, lambda record: False)
    for step in range(6):
        log.write({"step": step})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # cut short by a kill
    assert [record["step"] for record in read_metrics(path)] == list(range(6))
    log = MetricsLog(path, lambda record: record["step"] <= 3)
    log.write({"step": 4, "again": True})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]
    log = MetricsLog(path, lambda record: True)
    log.cut(lambda record: record["step"] <= 1)
    log.write({"step": 2})
    log.close()
    assert [record["step"] for record in read_metrics(path)] == [0, 1, 2]
    MetricsLog(path, lambda record: False).close()
    assert read_metrics(path) == []


def test_the_manifest_says_what_differs_between_starts(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert note_start(path, {"device": "cpu", "threads": 2}) == []
    assert note_start(path, {"device": "cpu", "threads": 2}) == []
    assert note_start(path, {"device": "cpu", "threads": 1}) == ["threads was 2, is 1"]
    starts = read_json(path)["starts"]
    assert len(starts) == 3
    assert starts[0]["versions"]["torch"]


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path / "deep" / "run"):
        with pytest.raises(InputError, match="another process is at work in it"), locked(tmp_path / "deep" / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "deep" / "run"):
        raise ZeroDivisionError
    with locked(tmp_path / "deep" / "run"):
        pass


def test_what_takes_a_moment_waits_for_another_one(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        order.append("asks")
        with one_at_a_time(tmp_path):
            order.append("second")

    with one_at_a_time(tmp_path), locked(tmp_path):  # each is nothing to the other
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["asks", "first", "second"]


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> Callable[..., None]:
        def flock(*_: object) -> None:
            raise OSError(number, "flock")

        return flock

    monkeypatch.setattr("fcntl.flock", fail(errno.ENOSYS))
    with locked(tmp_path), locked(tmp_path), one_at_a_time(tmp_path), one_at_a_time(tmp_path):
        pass
    monkeypatch.setattr("fcntl.flock", fail(errno.EIO))
    with pytest.raises(OSError, match="flock"), locked(tmp_path):
        pass


def test_a_write_that_fails_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "a.txt")


def plant(place: Path, target: Path, kind: str) -> None:
    """Something that is no plain file of its own, under a name that is written to."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        place.symlink_to(target)
    elif kind == "hard link":
        place.hardlink_to(target)
    else:
        os.mkfifo(place)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
@pytest.mark.parametrize("name", [".lock", ".a.json.partial", "metrics.jsonl", ".out.lock"])
def test_what_is_written_goes_through_no_link(tmp_path: Path, name: str, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    plant(tmp_path / "run" / name, precious, kind)
    actions: dict[str, Callable[[], object]] = {
        ".lock": lambda: locked(tmp_path / "run").__enter__(),
        ".a.json.partial": lambda: write_json(tmp_path / "run" / "a.json", {}),
        ".out.lock": lambda: claimed(tmp_path / "run" / "out").__enter__(),
        "metrics.jsonl": lambda: open_to_append(tmp_path / "run" / "metrics.jsonl"),
    }
    with pytest.raises(InputError, match="is a link, or no plain file"):
        actions[name]()
    assert precious.read_text() == "keep me"


@pytest.mark.parametrize("name", [".out.partial", "out"])
def test_no_folder_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_text("keep me")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(InputError, match="is a link, and a folder is written there"), new_folder(tmp_path / "out"):
        pass
    assert (target / "file").read_text() == "keep me"


def test_only_files_of_the_folder_itself_are_copied(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a").write_text("a")
    (source / "b").symlink_to("deep/a")
    copy_own(source, tmp_path / "copy")
    assert [(tmp_path / "copy" / name).read_text() for name in ("deep/a", "b")] == ["a", "a"]
    for at in (tmp_path / "outside", "../outside", tmp_path):
        (source / "link").symlink_to(at)
        with pytest.raises(InputError, match="leads out of its folder"):
            copy_own(source, tmp_path / "other")
        assert not (tmp_path / "other" / "link").exists()
        (source / "link").unlink()


def test_a_snapshot_of_the_hubs_cache_owns_the_blobs_of_its_model(tmp_path: Path) -> None:
    for name in ("models--org--one", "models--org--two"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "blobs" / "0a").write_text("x")
    snapshot = tmp_path / "models--org--one" / "snapshots" / "f0"
    snapshot.mkdir(parents=True)
    (snapshot / "own").symlink_to("../../blobs/0a")
    (snapshot / "other").symlink_to("../../../models--org--two/blobs/0a")
    (snapshot / "gone").symlink_to("../../blobs/0b")
    (snapshot / "round").symlink_to("round")
    assert [is_own(snapshot / name, snapshot) for name in ("own", "other", "gone", "round")] == [True] + [False] * 3
