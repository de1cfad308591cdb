"""One event to many users, each by the channel of their own choice."""

from __future__ import annotations

from collections.abc import Iterable

from actors.announcements import Announcement, announce, report_fan_out
from pipelines.flow import Flow


def notification_fan_out(announcement: Announcement, user_ids: Iterable[str]) -> Flow:
    """The flow that tells all these users, once each; start it with :func:`pipelines.flows.start`.

    They are told in parallel. One who can't be told does not keep the others from it: the step
    ``report`` counts how many were told by which channel and how many were not.
    """
    users = dict.fromkeys(user_ids)  # in their order
    flow = Flow("notification fan-out").parallel(
        "announce", (announce.message(user, announcement) for user in users), policy="ignore"
    )
    return flow.step("report", report_fan_out.message_with_options(), after="announce")
