"""Stored or online: the arithmetic at its edges, and in words."""

from dataclasses import replace

from inheritune.distillation import Estimate

GIVEN = Estimate(sequences=1000, uses=3000, seconds=0.5, again=0.0, bytes=3_000_000, free=10**12)
AGAIN = replace(GIVEN, again=0.1)


def test_the_sums() -> None:
    assert GIVEN.size == 3 * 10**9
    assert GIVEN.online_seconds == 1500
    assert GIVEN.stored_seconds == 500 + 4000 * 3e6 / 0.3e9
    assert AGAIN.online_seconds == 1800
    assert AGAIN.stored_seconds == 800 + 4000 * 3e6 / 0.3e9


def test_what_takes_less_time_is_chosen() -> None:
    assert GIVEN.choice == AGAIN.choice == "stored"
    for one in (GIVEN, AGAIN):
        assert replace(one, uses=1000).choice == "online"  # once each: nothing to save
        assert replace(one, seconds=0.019).choice == "online"  # quicker than a disk
        assert replace(one, seconds=0.021).choice == "stored"
    assert replace(GIVEN, seconds=0.02).choice == "online"  # as long: then without a byte written


def test_half_of_the_free_disk_stays_free() -> None:
    assert replace(GIVEN, free=6 * 10**9).choice == "stored"
    assert replace(GIVEN, free=6 * 10**9 - 1).choice == "online"


def test_in_words() -> None:
    assert str(GIVEN) == (
        "online 3,000 sequences x 0.5 s = 1.5e+03 s; stored 1,000 x 0.5 s, and 3 GB written once and 9 GB read at"
        " 300 MB a second = 540 s (1 TB free): stored"
    )
    assert str(replace(AGAIN, free=10**9)) == (
        "online 3,000 sequences x (0.5 + 0.1 s) = 1.8e+03 s; stored 1,000 x 0.5 s, 3,000 x 0.1 s, and 3 GB written once"
        " and 9 GB read at 300 MB a second = 840 s (1 GB free): online, as stored outputs would take more than half of"
        " the free disk"
    )
