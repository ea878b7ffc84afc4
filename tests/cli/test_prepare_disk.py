"""A preparation whose disk becomes full: status 1, nothing that looks finished, and it goes on when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inheritune.data import open_prepared
from processes import program


@pytest.mark.long
def test_a_full_disk(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    """A file system in memory, with more and more room; the same words go on."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if subprocess.run(options, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not mount a tmpfs")
    words = ["prepare", text, "--out", disk / "data", "--tokenizer", reference_folder, "--validation", "600 tokens"]
    try:
        ended = []
        for size in range(40, 700, 60):
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
            done = program(*words, "--quiet")
            ended.append(done.returncode)
            if done.returncode == 0:
                break
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert "the disk is full; make room" in done.stderr or "No space left on device" in done.stderr
            assert not (disk / "data").exists()
        assert len(ended) > 1
        assert ended == [1] * (len(ended) - 1) + [0]
        open_prepared(disk / "data").verify()
    finally:
        subprocess.run(["umount", str(disk)], check=False)
