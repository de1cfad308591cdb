"""A WSGI application whose requests send jobs: `python wsgi.py PORT`, then POST /greet/<user>.

Under a server that forks its workers, do what `serve` does after the fork (gunicorn: in a
`post_fork` hook), and import the application there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

from actors.app import start_telemetry
from actors.notifications import send_notification
from actors.payloads import Notification
from middleware.web import WsgiCorrelation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def greet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer at once; a worker does the rest."""
    user = environ["PATH_INFO"].removeprefix("/greet/")
    message = send_notification.send(
        Notification(type="in-app", user_id=user, payload={"text": "Hello!"})
    )
    start_response("202 Accepted", [("Content-Type", "text/plain")])
    return [message.message_id.encode()]


def serve(port: int) -> None:
    """Serve until Ctrl-C."""
    telemetry = start_telemetry("web")
    application = OpenTelemetryMiddleware(WsgiCorrelation(greet))
    with make_server("127.0.0.1", port, application) as server:
        # On another thread: within a request wsgiref takes Ctrl-C for the application's error.
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            serving.join()
        except KeyboardInterrupt:
            server.shutdown()
        finally:
            telemetry.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
