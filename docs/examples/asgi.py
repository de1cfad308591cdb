"""An ASGI application whose requests send jobs: `uvicorn asgi:application`, POST /greet/<user>."""

from __future__ import annotations

import asyncio
from typing import Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from actors.app import start_telemetry
from actors.notifications import send_notification
from actors.payloads import Notification
from middleware.web import AsgiCorrelation


async def greet(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once; a worker does the rest."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    user = scope["path"].removeprefix("/greet/")
    notification = Notification(type="in-app", user_id=user, payload={"text": "Hello!"})
    # Redis is asked on a thread: the loop has other requests. The trace goes along.
    message = await asyncio.to_thread(send_notification.send, notification)
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": message.message_id.encode()})


async def lifespan(receive: Any, send: Any) -> None:
    """The SDK lives as long as the server's process does."""
    await receive()
    telemetry = await asyncio.to_thread(start_telemetry, "web")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.to_thread(telemetry.flush)
    await send({"type": "lifespan.shutdown.complete"})


application = OpenTelemetryMiddleware(AsgiCorrelation(greet))
