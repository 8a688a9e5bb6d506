"""The committed offset never passes an entry that is not completed."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.partitions.offsets import CommitMetadata, OffsetTracker

moves = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60)


@given(st.integers(0, 1000), moves)
def test_committable_is_the_first_open_entry(start: int, history: list[tuple[bool, int]]) -> None:
    """The committable offset is the first open one, or the position if none is open."""
    offsets, position = OffsetTracker(start), start
    unfinished: list[int] = []
    for reads, number in history:
        if reads:  # compaction and transactions leave gaps
            offset = position + number % 3
            offsets.opened(offset)
            unfinished.append(offset)
            position = offset + 1
        else:
            offset = unfinished[number % len(unfinished)] if unfinished else number
            offsets.completed(offset)
            unfinished = [other for other in unfinished if other != offset]
        assert offsets.position == position
        assert offsets.open == len(unfinished)
        assert offsets.committable == (min(unfinished) if unfinished else position)


@given(st.booleans(), st.integers(-1, 2**63 - 1), st.integers(-1, 2**63 - 1))
def test_metadata_comes_back_as_it_was_written(clean: bool, relocated: int, invalid: int) -> None:
    """The next owner reads the metadata that an owner committed."""
    metadata = CommitMetadata(clean=clean, relocated_up_to=relocated, invalid_entries_up_to=invalid)
    assert CommitMetadata.decode(metadata.encode()) == metadata


def test_metadata_is_written_as_by_earlier_releases() -> None:
    """The names in a commit's metadata are those of earlier releases, since a group may run two releases at a time."""
    metadata = CommitMetadata(clean=True, relocated_up_to=5, invalid_entries_up_to=7)
    assert metadata.encode() == '{"clean":true,"in_place":5,"registry":7}'
    assert CommitMetadata.decode('{"clean":true,"in_place":5,"registry":7}') == metadata


@given(st.text(max_size=20))
def test_another_programs_metadata_is_an_unclean_hand_over(text: str) -> None:
    """With metadata of another program the owner starts, and assumes that any entry may have been sent."""
    assert isinstance(CommitMetadata.decode(text), CommitMetadata)
    assert not CommitMetadata.decode("").clean
    assert not CommitMetadata.decode("null").clean
    assert not CommitMetadata.decode('{"a":' + "[" * 100_000).clean
    assert CommitMetadata.decode('{"clean": true, "newer": 1}').clean
