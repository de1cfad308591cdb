"""An image into several sizes: validate, resize and optimize each, list them, tell the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dramatiq import Message

from actors.notifications import send_notification
from actors.payloads import Notification
from actors.renditions import (
    Rendition,
    Source,
    optimize_rendition,
    remove_manifest,
    remove_rendition,
    validate_image,
    write_manifest,
    write_rendition,
)
from pipelines.flow import Flow

WIDTHS: Final = (320, 640, 1280)


def image_pipeline(source: Source, user_id: str, widths: Sequence[int] = WIDTHS) -> Flow:
    """The flow that makes a source's renditions; start it with :func:`pipelines.flows.start`.

    If a step fails for good, what was written is removed, the last first, and the user is
    told in either case.
    """
    flow = Flow("image pipeline").step("validate", validate_image.message(source))
    for width in widths:
        flow.step(
            f"resize to {width}",
            write_rendition.message_with_options(args=(Rendition(source=source, width=width),)),
            after="validate",
            undo=remove_rendition.message_with_options(),
        )
        flow.step(
            f"optimize {width}",
            optimize_rendition.message_with_options(),
            after=f"resize to {width}",
            undo=remove_rendition.message_with_options(),
        )
    flow.step(
        "manifest",
        write_manifest.message_with_options(args=(source,)),
        after=[f"optimize {width}" for width in widths],
        undo=remove_manifest.message_with_options(args=(source,), pipe_ignore=True),
    )
    flow.step("notify", _told(user_id, source, "ready"), after="manifest", policy="ignore")
    return flow.on_failure(_told(user_id, source, "failed"))


def _told(user_id: str, source: Source, what: str) -> Message[Any]:
    content = {"event": f"image-{what}", "fileId": source.file_id, "folder": source.folder}
    notification = Notification(type="in-app", user_id=user_id, payload=content)
    return send_notification.message_with_options(args=(notification,), pipe_ignore=True)
