"""A client's retry is known within the horizon."""

from __future__ import annotations

from leadline.journal.recent import Recent


def test_a_retry_is_known_within_the_horizon() -> None:
    """Seen at 0 with a horizon of 10: known at 10, not at 11."""
    recent = Recent(10, 100)
    recent.note(b"a", 0)
    assert recent.seen(b"a", 10)
    assert not recent.seen(b"a", 11)
    assert not recent.seen(b"b", 0)


def test_the_memory_is_bounded_and_says_so() -> None:
    """Past its entries the oldest is forgotten, and counted."""
    recent = Recent(1000, 2)
    for index, digest in enumerate((b"a", b"b", b"c")):
        recent.note(digest, index)
    assert [recent.seen(digest, 3) for digest in (b"a", b"b", b"c")] == [False, True, True]
    assert recent.forgotten_early == 1


def test_expired_entries_make_room_without_being_counted() -> None:
    """What is past the horizon goes by itself."""
    recent = Recent(5, 2)
    for at in (0, 10, 20):
        recent.note(bytes([at]), at)
    assert len(recent) == 1
    assert recent.forgotten_early == 0
