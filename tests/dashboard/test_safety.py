"""Who comes in, and what other sites can't make a browser do (FAULTS 65)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from dramatiq import Actor

from broker import InvalidOption, SettingsError, StreamsBroker
from dashboard import Access, Dashboard, Role, User, make_wsgi_middleware
from dashboard.access import Proxies, ProxyHeader, Users
from dashboard.pages.sign_in import within
from dashboard.settings import DashboardSettings, Links
from dashboard.throttle import Throttle
from tests.dashboard.browser import SAME_ORIGIN, Browser
from tests.dashboard.conftest import PASSWORD, SECRET, cheap_hash
from tests.dashboard.test_speed import PAGES

Audit = Callable[[], list[dict[str, Any]]]


def test_every_answer_forbids_scripts_frames_and_copies(browser: Browser) -> None:
    for path in ("/", "/nowhere", "/queues/nobodys/jobs", "/actions/pause"):
        headers = browser.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert "no-store" not in browser.get("/static/headrace.js").headers["cache-control"]


def test_no_page_has_a_script_or_a_style_within_or_anything_from_elsewhere(
    browser: Browser, send: Actor[..., None]
) -> None:
    message = send.send("a")
    for path in (*PAGES, f"/queues/mail/job?id={message.message_id}"):
        page = browser.page(path)
        assert "<style" not in page
        assert " style=" not in page
        assert page.count("<script") == page.count("<script src=") == 1
        assert "http:" not in page
        assert "https:" not in page
    (style,) = re.findall(r'href="(/static/headrace.css[^"]*)"', page)
    assert not re.search(r"url\(|@import", browser.page(style))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {},
        {"sec-fetch-site": "same-origin", "sec-fetch-dest": "iframe"},
    ],
)
def test_a_post_from_elsewhere_is_refused(
    browser: Browser,
    broker: StreamsBroker,
    send: Actor[..., None],
    audit: Audit,
    headers: dict[str, str],
) -> None:
    send.send("a")
    fields = browser.form("/queues/mail/jobs", "/actions/pause")
    answer = browser.post("/actions/pause", fields, headers)
    assert answer.status_code == 403
    assert not broker.inspector.queue("mail").paused
    assert audit()[-1]["outcome"].startswith("refused")


def test_an_old_browser_tells_where_from_by_the_origin(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")
    fields = browser.form("/queues/mail/jobs", "/actions/pause")
    answer = browser.post("/actions/pause", fields, {"origin": "http://localhost:8000"})
    assert answer.status_code == 302
    assert broker.inspector.queue("mail").paused


@pytest.mark.parametrize("token", ["", "0" * 64, None])
def test_a_post_without_the_sessions_token_is_refused(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None], token: str | None
) -> None:
    send.send("a")
    fields = browser.form("/queues/mail/jobs", "/actions/pause")
    if token is None:
        del fields["__dd_csrf"]
    else:
        fields["__dd_csrf"] = token
    # A cookie that another application on the host, or a neighbour on the domain, has planted.
    browser.client.cookies.set("__dd_csrf", token or "")
    assert browser.post("/actions/pause", fields).status_code == 403
    assert not broker.inspector.queue("mail").paused


def test_one_sessions_token_is_no_others(
    operator: Browser, guarded: Dashboard, send: Actor[..., None]
) -> None:
    send.send("a")
    other = Browser(guarded)
    other.sign_in("olga", PASSWORD)
    fields = operator.form("/queues/mail/jobs", "/actions/pause")
    assert other.post("/actions/pause", fields).status_code == 403


def test_a_page_that_says_no_has_the_token_of_whom_it_says_it_to(
    operator: Browser, viewer: Browser
) -> None:
    operators, viewers = (each.form("/", "/sign-out")["__dd_csrf"] for each in (operator, viewer))
    operator.page("/")
    refused = viewer.post("/actions/pause", {"queue": "mail"})
    assert refused.status_code == 403
    assert operators not in refused.text
    assert viewers in refused.text


def test_an_action_by_get_does_nothing(
    browser: Browser, broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")
    assert browser.get("/actions/pause?queue=mail").status_code == 405
    assert not broker.inspector.queue("mail").paused


def test_a_framed_page_is_refused(browser: Browser) -> None:
    assert browser.get("/", sec_fetch_dest="iframe").status_code == 403


def test_a_page_that_another_site_loads_into_itself_is_refused_and_a_link_is_not(
    browser: Browser,
) -> None:
    loaded = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    assert browser.get("/", **loaded).status_code == 403
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert browser.get("/", **link).status_code == 200


def test_without_users_another_name_of_this_machine_is_refused(browser: Browser) -> None:
    assert browser.get("/", host="rebound.example:8000").status_code == 421
    for name in ("localhost", "127.0.0.1:9", "[::1]:8000"):
        assert browser.get("/", host=name).status_code == 200


def test_strangers_are_led_to_the_sign_in_and_see_nothing(
    guarded: Dashboard, send: Actor[..., None]
) -> None:
    send.send("a")
    browser = Browser(guarded)
    answer = browser.get("/queues/mail/jobs")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/sign-in")
    assert "mail" not in answer.text
    assert browser.post("/actions/pause", {"queue": "mail"}).status_code == 403


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(
    guarded: Dashboard, audit: Audit
) -> None:
    browser = Browser(guarded)
    wrong, unknown = browser.sign_in("olga", "wrong"), browser.sign_in("nobody", PASSWORD)
    assert wrong.status_code == unknown.status_code == 403
    hide = str.maketrans("", "", "0123456789abcdef")
    assert wrong.text.translate(hide) == unknown.text.translate(hide)
    assert [line["tried"] for line in audit()] == ["olga", "nobody"]
    assert "wrong" not in str(audit())


def test_who_guesses_passwords_is_slowed_down(guarded: Dashboard) -> None:
    browser = Browser(guarded)
    codes = [browser.sign_in("olga", f"guess {index}").status_code for index in range(7)]
    assert codes[:5] == [403] * 5
    assert 429 in codes[5:]
    answer = Browser(guarded, address="127.0.0.2").sign_in("olga", PASSWORD)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 0


def test_the_throttle_waits_longer_each_time_and_forgets() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    waits = []
    for _ in range(16):
        throttle.failed(["a"])
        waits.append(throttle.wait_s(["a"]))
    assert waits[:6] == [0, 0, 0, 0, 1, 2]
    assert waits[-1] == 300
    assert throttle.wait_s(["b"]) <= 0
    now[0] = 3_700 + 300
    throttle.failed(["a"])
    assert throttle.wait_s(["a"]) <= 0


def test_a_forged_an_old_and_a_removed_users_session_are_strangers(
    guarded: Dashboard, broker: StreamsBroker, users_text: str
) -> None:
    browser = Browser(guarded)
    browser.client.cookies.set("headrace_session", "WyJ4Iiwib2xnYSJd.aaaa.bbbb")
    assert browser.get("/").status_code == 302
    browser.client.cookies.clear()
    browser.sign_in("olga", PASSWORD)
    assert browser.get("/").status_code == 200
    fewer = "\n".join(line for line in users_text.splitlines() if "olga" not in line)
    access = Access.by_password(Users(fewer, source="users"))
    later = Browser(Dashboard(broker, access=access, secret="s" * 32))
    later.client.cookies = browser.client.cookies
    assert later.get("/").status_code == 302


@pytest.mark.parametrize(
    "others",
    ['prefs={"theme":"dark"}; {}', '{}; prefs={"theme":"dark"}', "a b; =; my{}; {}; c@d=1"],
)
def test_a_session_is_found_whatever_cookies_stand_around_it(
    guarded: Dashboard, others: str
) -> None:
    browser = Browser(guarded)
    browser.sign_in("olga", PASSWORD)
    ours = f"headrace_session={browser.client.cookies['headrace_session']}"
    browser.client.cookies.clear()
    assert browser.get("/", cookie=others.replace("{}", ours)).status_code == 200
    assert browser.get("/", cookie=f"my{ours}").status_code == 302


def test_signing_in_and_out_makes_another_session_each_time(guarded: Dashboard) -> None:
    browser = Browser(guarded)
    browser.get("/sign-in")
    cookies = [browser.client.cookies["headrace_session"]]
    answer = browser.sign_in("olga", PASSWORD)
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=Strict" in answer.headers["set-cookie"]
    cookies.append(browser.client.cookies["headrace_session"])
    browser.submit("/", "/sign-out")
    cookies.append(browser.client.cookies["headrace_session"])
    assert len(set(cookies)) == 3
    assert browser.get("/").status_code == 302


def test_a_session_is_not_made_longer_by_use_and_ends_with_the_sign_out(
    guarded: Dashboard,
) -> None:
    browser, thief = Browser(guarded), Browser(guarded)
    browser.sign_in("olga", PASSWORD)
    thief.client.cookies = httpx.Cookies(browser.client.cookies)
    answer = thief.get("/")
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    browser.submit("/", "/sign-out")
    assert thief.get("/").status_code == 302


def test_a_changed_password_ends_the_sessions(guarded: Dashboard, broker: StreamsBroker) -> None:
    browser = Browser(guarded)
    browser.sign_in("olga", PASSWORD)
    changed = f"olga:operator:{cheap_hash('another one')}"
    access = Access.by_password(Users(changed, source="users"))
    later = Browser(Dashboard(broker, access=access, secret=SECRET))
    later.client.cookies = browser.client.cookies
    assert later.get("/").status_code == 302


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/queues/mail/jobs", "/queues/mail/jobs"),
        ("//evil.example", "/evil.example"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("/\t/evil.example", "/%09/evil.example"),
        ("/\r\nSet-Cookie: a=b", "/%0D%0ASet-Cookie%3A%20a%3Db"),
        ("https://evil.example", "/"),
        ("?next=//evil.example", "/"),
        ("//evil.example?id=1", "/evil.example?id=1"),
        ("/%2F/evil.example", "/%2F/evil.example"),
        ("/queues/a%20b/job?id=x%26y&tab=1", "/queues/a%20b/job?id=x%26y&tab=1"),
        ("/job?id=\r\nSet-Cookie: a\\", "/job?id=%0D%0ASet-Cookie:%20a%5C"),
    ],
)
def test_a_sign_in_leads_to_no_other_site(path: str, leads_to: str) -> None:
    assert within(path) == leads_to


def test_a_sign_in_leads_to_where_one_wanted_to_go(guarded: Dashboard) -> None:
    browser = Browser(guarded)
    for wanted in ("/queues/mail/jobs", "/queues/a%20b%25%3F/job?id=x%26y&state=dead&q=%C3%A9"):
        form = browser.get(wanted).headers["location"]
        fields = browser.form(form, "") | {"name": "olga", "password": PASSWORD}
        answer = browser.client.post(form, data=fields, headers=SAME_ORIGIN)
        assert answer.headers["location"] == wanted
        browser.client.cookies.clear()


def test_a_form_that_is_too_long_is_refused(browser: Browser) -> None:
    assert browser.post("/actions/pause", {"queue": "x" * 1_100_000}).status_code == 413


def test_a_proxys_header_counts_from_the_proxy_only(broker: StreamsBroker) -> None:
    known = ProxyHeader("X-Forwarded-User", Proxies(["10.0.0.0/8"]), ["olga"])
    dashboard = Dashboard(broker, access=Access.by(known))
    proxy, other = Browser(dashboard, address="10.1.2.3"), Browser(dashboard)
    assert "olga (operator)" in proxy.get("/", x_forwarded_user="olga").text
    assert "viktor (viewer)" in proxy.get("/", x_forwarded_user="viktor").text
    assert proxy.get("/").status_code == 401
    assert other.get("/", x_forwarded_user="olga").status_code == 401
    with pytest.raises(SettingsError, match="PROXY_ADDRESSES"):
        Proxies(["the proxy"])


def test_the_client_is_who_the_proxy_says_and_nobody_else_may_say_it() -> None:
    proxies = Proxies(["10.0.0.0/8"])

    def client(peer: str, told: str) -> str:
        return proxies.client_of({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": told})

    assert client("10.1.2.3", "203.0.113.7") == "203.0.113.7"
    assert client("10.1.2.3", "192.0.2.1, 203.0.113.7") == "203.0.113.7"
    assert client("192.0.2.9", "203.0.113.7") == "192.0.2.9"
    assert client("10.1.2.3", "") == "10.1.2.3"


def test_it_is_not_served_to_a_network_without_users(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        _ = DashboardSettings.load({"HEADRACE_DASHBOARD_HOST": "0.0.0.0"}).access  # noqa: S104
    with pytest.raises(SettingsError, match="loopback"):
        _ = DashboardSettings.load({"HEADRACE_DASHBOARD_HOST": "::"}).access
    assert DashboardSettings.load({}).access.everybody is not None
    users = tmp_path / "users"
    users.write_text(f"olga:operator:{cheap_hash(PASSWORD)}\n")
    environ = {
        "HEADRACE_DASHBOARD_HOST": "0.0.0.0",  # noqa: S104
        "HEADRACE_DASHBOARD_USERS_FILE": str(users),
    }
    settings = DashboardSettings.load(environ)
    assert settings.access.users is not None
    assert "scrypt" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"HEADRACE_DASHBOARD_SECRET": "short"}, "HEADRACE_DASHBOARD_SECRET"),
        ({"HEADRACE_DASHBOARD_PROXY_HEADER": "X-User"}, "HEADRACE_DASHBOARD_PROXY_ADDRESSES"),
        ({"HEADRACE_DASHBOARD_PORT": "http"}, "HEADRACE_DASHBOARD_PORT"),
        ({"HEADRACE_DASHBOARD_GRAFANA": "javascript:alert(1)"}, "HEADRACE_DASHBOARD_GRAFANA"),
        ({"HEADRACE_DASHBOARD_HTTPS": "maybe"}, "HEADRACE_DASHBOARD_HTTPS"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DashboardSettings.load(environ)
    assert named in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "olga",
        "olga:admin:scrypt$32768$8$1$c2FsdA==$a2V5",
        "olga:viewer:secret",
        "olga:viewer:scrypt$2$8$1$AAAAAAAAAAAAAAAAAAAAAA==$" + "A" * 43 + "=",
        "ol ga:viewer:secret",
        "",
    ],
)
def test_a_line_that_is_no_user_is_named_without_its_hash(line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Users(line, source="users")
    assert "secret" not in str(caught.value)


def test_it_is_mounted_in_an_application_that_knows_its_users(
    broker: StreamsBroker, send: Actor[..., None]
) -> None:
    send.send("a")

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the application"]

    def identify(environ: Any) -> User | None:
        return User("olga", Role.OPERATOR) if "HTTP_X_KNOWN" in environ else None

    mounted = make_wsgi_middleware("/jobs", broker, access=Access.by(identify))(application)
    browser = Browser(mounted)
    assert browser.get("/").text == browser.get("/jobsite").text == "the application"
    assert browser.get("/jobs/").status_code == 401
    for path in ("/jobs", "/jobs/"):
        page = browser.get(path, x_known="1").text
        assert 'href="/jobs/queues/mail/jobs"' in page
        assert 'src="/jobs/static/headrace.js?v=' in page
    with pytest.raises(InvalidOption, match="prefix"):
        make_wsgi_middleware("jobs", broker, access=Access.by(identify))


def test_links_to_grafana_carry_what_they_look_for() -> None:
    links = Links(grafana="http://grafana.example:3000/")
    assert "4bf92f35" in str(links.trace("4bf92f35"))
    assert "%22" in str(links.logs('a"} | evil'))
    assert Links().trace("4bf92f35") is None
    assert links.trace(None) is None
