"""The committed offset never passes an entry that is not finished."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.partitions.offsets import CommitMetadata, OffsetTracker

moves = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60)


@given(st.integers(0, 1000), moves)
def test_the_prefix_is_the_first_open_entry(start: int, history: list[tuple[bool, int]]) -> None:
    """Against a list of all that was read: the prefix is the first unfinished offset, else the position."""
    offsets, position = OffsetTracker(start), start
    unfinished: list[int] = []
    for reads, number in history:
        if reads:  # compaction and transactions leave gaps
            offset = position + number % 3
            offsets.read(offset)
            unfinished.append(offset)
            position = offset + 1
        else:
            offset = unfinished[number % len(unfinished)] if unfinished else number
            offsets.finish(offset)
            unfinished = [other for other in unfinished if other != offset]
        assert offsets.position == position
        assert offsets.open == len(unfinished)
        assert offsets.prefix == (min(unfinished) if unfinished else position)


@given(st.booleans(), st.integers(-1, 2**63 - 1), st.integers(-1, 2**63 - 1))
def test_a_bookmark_comes_back_as_it_was_written(clean: bool, in_place: int, registry: int) -> None:
    bookmark = CommitMetadata(clean=clean, in_place=in_place, registry=registry)
    assert CommitMetadata.read(bookmark.text()) == bookmark


@given(st.text(max_size=20))
def test_another_programs_metadata_is_an_unclean_bookmark(text: str) -> None:
    """Whatever stands in the commit, the owner starts, and takes nothing for not sent."""
    assert isinstance(CommitMetadata.read(text), CommitMetadata)
    assert not CommitMetadata.read("").clean
    assert not CommitMetadata.read("null").clean
    assert CommitMetadata.read('{"clean": true, "newer": 1}').clean
