"""A browser without a window: it keeps cookies, and fills in forms as pages have them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx

SAME_ORIGIN = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}

#: The address of the next page.
NEXT = re.compile(r'rel="next"[^>]* href="([^"]+)"')

_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_INPUT = re.compile(r"<(?:input|textarea|select)\b[^>]*>")


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return "" if found is None else unescape(found[1])


class Browser:
    """Talks to a WSGI application, by HTTP's rules alone."""

    def __init__(self, application: Any, *, address: str = "127.0.0.1") -> None:
        transport = httpx.WSGITransport(app=application, remote_addr=address)
        self.client = httpx.Client(transport=transport, base_url="http://localhost:8000")

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def page(self, path: str) -> str:
        """A page that has to be there."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.text

    def form(self, path: str, action: str) -> dict[str, str]:
        """The fields of the page's form whose address ends like this."""
        for attributes, body in _FORM.findall(self.page(path)):
            if _attribute(attributes, "action").split("?")[0].endswith(action):
                fields = {}
                for tag in _INPUT.findall(body):
                    fields[_attribute(tag, "name")] = _attribute(tag, "value")
                return fields
        raise AssertionError(f"{path} has no form for {action}")

    def post(
        self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None
    ) -> httpx.Response:
        given = SAME_ORIGIN if headers is None else headers
        return self.client.post(path, data=fields, headers=given)

    def submit(self, path: str, action: str, **fields: str) -> httpx.Response:
        """Fill in and send the page's form, and follow where it leads."""
        answer = self.post(action, self.form(path, action) | fields)
        if answer.status_code == 302:
            return self.get(answer.headers["location"])
        return answer

    def sign_in(self, name: str, password: str) -> httpx.Response:
        fields = self.form("/sign-in", "") | {"name": name, "password": password}
        return self.post("/sign-in", fields)
