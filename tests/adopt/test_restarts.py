"""What is believed of several directories with one run id, and what is asked about. Pure."""

from __future__ import annotations

import pytest

from wandb_spool.spool.restarts import Piece, doubts, in_order

FIRST = Piece("a", 0.0, 100.0, 0, 99)


@pytest.mark.parametrize(
    ("later", "why"),
    [
        (Piece("b", 200.0, 300.0, 100, 199), None),  # resumed where it stopped
        (Piece("b", 200.0, 300.0, 80, 179), None),  # restarted from a checkpoint a little earlier
        (Piece("b", 200.0, 300.0, 20, 119, resume=True), None),  # far back, and the program says that it resumes
        (Piece("b", 200.0, None, None, None), None),  # no rows at all
        (Piece("b", 200.0, 300.0, 500, 600), None),  # a fragment between them is gone
        (Piece("b", 200.0, 300.0, 20, 119), "goes back from step 99 to 20"),
        (Piece("b", 200.0, 300.0, 0, 99, resume=True), "begins again at step 0"),
        (Piece("b", 50.0, 150.0, 100, 199), "50 s before the earlier one ended"),
        (Piece("b", 0.0, 150.0, 100, 199), "started at the same time"),
        (Piece("b", None, None, 100, 199), "nothing tells when it started"),
    ],
)
def test_restart_is_believed_or_asked_about(later: Piece, why: str | None) -> None:
    told = doubts([FIRST, later])
    if why is None:
        assert told == []
    else:
        assert why in told[0].why


def test_order_is_that_of_the_starts() -> None:
    pieces = [Piece("c", 30.0, None, 7, 9), Piece("a", 10.0, None, 0, 3), Piece("b", 20.0, None, 4, 6)]
    assert [piece.key for piece in in_order(pieces)] == ["a", "b", "c"]
