"""The meaning of an agent's status in contact-centre terms: the table of groups."""

from typing import Annotated, Literal

from msgspec import Meta

StatusGroup = Annotated[
    Literal["offline", "available", "ringing", "talking", "hold", "wrap_up", "break", "transfer", "other"],
    Meta(
        title="StatusGroup",
        description=(
            "What a status is in contact-centre terms. offline: no voice session. available: waits for a call, or is "
            "about to. ringing: being connected, or dialling. talking: in a call. hold: in a call while another one is "
            "on hold. wrap_up: after a call. break: logged in, but not taking calls. transfer: handing a call over, or "
            "taking one. other: everything else, and each status that the vendor's list lacks."
        ),
        examples=["talking"],
    ),
]

STATUS_GROUPS: dict[str, StatusGroup] = {
    "UNAVALIABLE": "offline",
    "IDLE": "break",
    "READY": "available",
    "HUNGUP": "offline",
    "DESTROYED": "offline",
    "PEERED": "talking",
    "PAUSED": "break",
    "WRAPUP": "wrap_up",
    "PREPARING_AFTER_IDLE": "available",
    "PREPARING_AFTER_WRAPUP": "available",
    "PREPARING_AFTER_PAUSE": "available",
    "PREPARING_AFTER_DIAL_CANCEL": "available",
    "PREPARING_AFTER_PBX_REJECT": "available",
    "PREPARING_AFTER_PBX_HANGUP": "available",
    "PREPARING_AFTER_PBX_WAS_TAKEN": "available",
    "PREPARING_AFTER_GUI_BUSY": "available",
    "MANUAL_DIAL_PREPARED": "other",
    "PREVIEW_DIAL_PREPARED": "other",
    "MANUAL_DIAL_STARTED": "ringing",
    "PREVIEW_DIAL_STARTED": "ringing",
    "OUTBOUND_LOCKED": "other",
    "WARM_AGENT_TRANSFER_STARTED_SOURCE": "transfer",
    "WARM_AGENT_TRANSFER_STARTED_DESTINATION": "transfer",
    "WARM_OUTBOUND_TRANSFER_STARTED": "transfer",
    "WARM_OUTBOUND_TRANSFER_PEER_LOST": "transfer",
    "PBX_POPUP_LOCKED": "ringing",
    "PEERED_WITH_CALL_ON_HOLD": "hold",
    "CALLBACK_RESUMING": "ringing",
    "GUI_BUSY": "other",
    "INTERCOM": "talking",
    "INTERCOM_RINGING_SOURCE": "ringing",
    "INTERCOM_RINGING_DESTINATION": "ringing",
    "WARM_OUTBOUND_TRANSFER_OUTBOUND_LOST": "transfer",
    "PREPARED_TO_PEER": "ringing",
    "WARM_SKILL_TRANSFER_SOURCE_PENDING": "transfer",
    "CALLER_TRANSFER_STARTED": "transfer",
    "CALLER_TRANSFER_LOST_PEER": "transfer",
    "CALLER_TRANSFER_LOST_MERGED_CALLER": "transfer",
    "COLD_OUTBOUND_TRANSFER_STARTED": "transfer",
    "COLD_AGENT_TRANSFER_STARTED": "transfer",
    "SECURE_FORM_HANDLING": "talking",
}
"""Every status of the vendor's list. The vendor's page describes none of them: the groups follow from the names."""


def status_group(status_desc: str) -> StatusGroup:
    """The group of a status; ``other`` for one that the vendor's list lacks."""
    return STATUS_GROUPS.get(status_desc, "other")
