"""``RecordId``: one form of ``topic/partition/offset``, written and read in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record_id import RecordId

topics = st.text(st.characters(categories=["Ll", "Nd"], include_characters="._-/"), min_size=1)
numbers = st.integers(0, 2**63 - 1)


@given(topics, numbers, numbers)
def test_a_record_id_is_read_back_from_its_text(topic: str, partition: int, offset: int) -> None:
    """Any topic's record id is read back from its text form."""
    record_id = RecordId(topic, partition, offset)
    assert RecordId.parse(str(record_id)) == record_id
    assert str(record_id).endswith(record_id.entry)


@pytest.mark.parametrize(
    "text", ["", "3/17", "/3/17", "asm.inject", "asm.inject/x/17", "asm.inject/3/-1", "a/3/\u0661", f"a/3/{2**63}"]
)
def test_any_other_text_is_refused(text: str) -> None:
    """A text that does not name a topic, a partition and an offset raises ``ValueError``, and says so."""
    with pytest.raises(ValueError, match="is not topic/partition/offset"):
        RecordId.parse(text)
