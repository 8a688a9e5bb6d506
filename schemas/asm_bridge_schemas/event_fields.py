"""What the fields of the vendor's events mean, as far as their names tell, with an example of each."""

from typing import Any, NamedTuple


class EventField(NamedTuple):
    """``example``: None for what is made of other messages; ``personal``: personal data."""

    meaning: str
    example: Any = None
    personal: bool = False


def _sid(meaning: str) -> EventField:
    return EventField(f"{meaning}: the vendor's 64-bit identifier, in digits.", "5000000000000000042")


def _time(meaning: str) -> EventField:
    return EventField(f"{meaning}: RFC 3339. Clock: the sender's.", "2026-11-23T09:30:00.250Z")


def _timeout(name: str) -> EventField:
    return EventField(f"The vendor's time-out {name} of the service level, a number without a documented unit.", 30)


EVENT_FIELDS = {
    "event_time": EventField(
        "When it happened, in the vendor's undocumented unit: milliseconds since 1970, as far as is known. Clock: "
        "the sender's.",
        1626791817289,
    ),
    "response_time_seconds": EventField("How long the agent took to answer, in seconds.", 12),
    "is_initial_agent_message": EventField("Whether it was the agent's first message of the conversation.", True),
    "conversation_sid": _sid("The conversation"),
    "date_created": _time("When it was created"),
    "date_modified": _time("When it was last modified"),
    "customer_email_address": EventField("The customer's address.", "ann@example.com"),
    "customer_phone_number": EventField("The customer's number.", "+18005550100"),
    "customer_name": EventField("The customer's name.", "Ann"),
    "campaign_sid": _sid("The campaign"),
    "reference_id": EventField("The sender's own reference to the conversation.", "case-17"),
    "last_message_time": _time("When the last message was sent"),
    "conversation_assignments": EventField("The agents to whom the conversation is or was assigned."),
    "end_time": _time("When the conversation ended"),
    "campaign_module_sid": _sid("The campaign's module"),
    "last_message_group_time": _time("When the last group of messages was sent"),
    "last_state_changed_time": _time("When its state last changed"),
    "task_sid": _sid("The task"),
    "skills": EventField("The skills that it asks for, each true.", {"english": True}),
    "items": EventField("The data that was collected, one entry per value."),
    "conversation_collected_data_sid": _sid("The entry"),
    "data_name": EventField("The name of the value.", "account"),
    "data_value": EventField("The value.", "4711", personal=True),
    "collection_time": _time("When it was collected"),
    "user_id": EventField("The agent's user name at the vendor.", "user-7"),
    "conversation_assignment_sid": _sid("The assignment"),
    "is_active": EventField("Whether the assignment holds.", True),
    "asm_session_sid": _sid("The agent's login (ASM session)"),
    "user_name": EventField("The agent's name.", "Bob"),
    "campaign_name": EventField("The campaign's name.", "support"),
    "support_email": EventField("The address that customers write to.", "help@example.com"),
    "campaign_shorten_url": EventField("Whether the campaign shortens links.", False),
    "payment_portal_ids": EventField("The vendor's payment portals.", ["portal-1"]),
    **{name: _timeout(name) for name in ("t1", "t2", "t3", "t10", "t11", "t12")},
}
"""By name, which means the same in every message of an event."""
