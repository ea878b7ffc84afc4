"""Suites that follow the paper keep its protocol, whatever the defaults become."""

import json

import pytest

from golden.pins import FILE, pins

PINNED, NOW = json.loads(FILE.read_text(encoding="utf-8")), pins()


def test_every_suite_is_pinned() -> None:
    assert PINNED.keys() == NOW.keys()


@pytest.mark.parametrize("name", sorted(PINNED))
def test_a_suite_asks_for_what_it_asked_for(name: str) -> None:
    """Where this fails after a change of a default, pin the old value in the suite or its base; see pins.py."""
    assert NOW[name] == PINNED[name]


@pytest.mark.parametrize("name", sorted(PINNED))
def test_the_papers_criterion_is_the_gap_itself(name: str) -> None:
    assert PINNED[name]["tolerance"] == 0.0
    grown = [arm["start"]["grow"] for arm in PINNED[name].get("arms", []) if arm["start"]["kind"] == "growth"]
    assert all(grow["until"] == "published" for grow in grown)
