"""Signing in and out."""

from __future__ import annotations

import math
from typing import Final
from urllib.parse import quote

from dramatiq_dashboard.csrf import csrf_protect
from dramatiq_dashboard.http import Response, handler, make_response, redirect

from dashboard.access import TooManyTries, User, WrongPassword
from dashboard.pages.base import Pages, Routes
from dashboard.web import PageRequest, noted

#: What stands in a query as it is: a % begins what was escaped.
_IN_QUERY: Final = "%&=+/?:@!$'()*,;"


class SignInPages(Pages):
    def routes(self) -> Routes:
        return [("/sign-in", self.sign_in), ("/sign-out", self.sign_out)]

    @handler  # type: ignore[untyped-decorator]
    @csrf_protect  # type: ignore[untyped-decorator]
    def sign_in(self, request: PageRequest) -> Response:
        users = self.app.access.users
        if users is None:
            return redirect(self.app.uri())
        if request.method != "POST":
            return self._form(request, "200 OK", "")
        name, password = request.form("name"), request.form("password")
        try:
            user = users.sign_in(name, password, request.address)
        except WrongPassword:
            noted(request, "sign in", "refused: name or password", tried=name[:100])
            return self._form(request, "403 Forbidden", "Name or password is wrong.")
        except TooManyTries as error:
            noted(request, "sign in", "refused: too many tries", tried=name[:100])
            response = self._form(request, "429 Too Many Requests", f"There were {error}.")
            response.add_header("Retry-After", f"{math.ceil(error.wait_s)}")
            return response
        self._let_in(request, user)
        return redirect(self.app.prefix + within(request.params.get("next", "/")))

    def _let_in(self, request: PageRequest, user: User) -> None:
        request.user = user
        request.session = self.app.sessions.new(user.name, user.mark)
        noted(request, "sign in", "done")

    def _form(self, request: PageRequest, status: str, told: str) -> Response:
        text = self.templates.get_template("sign_in.html").render(request=request, told=told)
        return make_response((status, text))

    @handler  # type: ignore[untyped-decorator]
    @csrf_protect  # type: ignore[untyped-decorator]
    def sign_out(self, request: PageRequest) -> Response:
        if request.method != "POST":
            return make_response(("405 Method Not Allowed", "Expected a POST request."))
        noted(request, "sign out", "done")
        self.app.sessions.end(request.session)
        request.user, request.session = None, self.app.sessions.new()
        return redirect(self.app.uri("sign-in"))


def within(target: str) -> str:
    """Path and query as the rest of an address of this site: //other.example would be another's.

    What an address can't have is escaped, and what was escaped stays so: browsers pass over tabs
    and line ends, and take a backslash for a slash.
    """
    path, mark, query = target.partition("?")
    if path[:1] != "/":
        return "/"
    rest = quote(path[1:], safe="/%", errors="surrogateescape").lstrip("/")
    return f"/{rest}{mark}{quote(query, safe=_IN_QUERY, errors='surrogateescape')}"
