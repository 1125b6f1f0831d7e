"""A few seconds of `make soak`: what must hold at any size, whatever the machine; how fast it is, only the soak itself tells."""

from __future__ import annotations

from bench.soak import soak


def test_in_bad_company_the_honest_are_answered_and_nothing_is_left_open() -> None:
    figures = soak(seconds=3, members=24, strangers=24, knock_s=0.2, alone_s=0.5)
    assert figures.errors == {} and figures.alone.tally["answered"] > 0 and figures.crowded.tally["answered"] > 0
    before, most, after = figures.descriptors
    assert before < most and after <= before, figures.descriptors
    assert figures.crowd["answered"] > 0 and 0 < figures.crowd["members' connections"] <= 24
    assert {"silent", "slow head", "wrong server name, then away", "half a handshake, then away", "no certificate"} <= set(figures.crowd), (
        figures.crowd
    )
    assert not [what for what in figures.crowd if "lost" in what or "wrong answer" in what or "ended" in what], figures.crowd
