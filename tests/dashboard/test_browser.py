"""The dashboard in a real browser: clicked through, looked at, attacked (FAULTS 64 and 65)."""

from __future__ import annotations

import http.server
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from dramatiq import Message
from dramatiq.middleware import Retries
from PIL import Image
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Route, expect

from broker import QueueLimit, State, StreamsBroker
from broker.embedded import EmbeddedValkey
from dashboard.serving import Server
from tests.conftest import StartWorker
from tests.dashboard.chromium import launched, served
from tests.dashboard.conftest import PASSWORD, cheap_hash
from tests.dashboard.scene import FILES, MAIL, Scene, buried, played
from tests.dashboard.test_speed import CLONE
from tests.processes import ROOT
from tests.waiting import eventually

#: Set to 1 to take the pictures of docs/dashboard.md anew.
SCREENSHOTS = "HEADRACE_SCREENSHOTS"
PICTURES = ROOT / "docs" / "dashboard"
PHONE = {"width": 390, "height": 844}

# Only a failure takes this long.
expect.set_options(timeout=15_000)

Site = tuple[Server, str]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def stage(valkey_server: EmbeddedValkey) -> Iterator[StreamsBroker]:
    """The broker of the scene, which all tests here share: each leaves what the others look at."""
    broker = StreamsBroker(
        url=valkey_server.url, namespace=f"test-{uuid4().hex}", middleware=[Retries()]
    )
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def site(stage: StreamsBroker, chromium: Chromium) -> Iterator[Site]:
    with served(stage, {}) as made:
        yield made


@pytest.fixture(scope="module")
def scene(stage: StreamsBroker, site: Site) -> Iterator[Scene]:
    with played(stage, site[0].dashboard.sampler.look) as made:
        yield made


@pytest.fixture
def page(chromium: Chromium, site: Site) -> Iterator[Page]:
    """A page of a new session; nothing may go wrong in it."""
    with _opened(chromium, site[1]) as made:
        yield made


@contextmanager
def _opened(chromium: Chromium, url: str) -> Iterator[Page]:
    context = chromium.new_context(
        base_url=url, viewport={"width": 1200, "height": 800}, color_scheme="dark"
    )
    context.set_default_timeout(10_000)
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    made.on("dialog", lambda dialog: dialog.accept())
    yield made
    context.close()
    assert wrong == []


def _paths(scene: Scene) -> dict[str, str]:
    """Every page, by the name of its picture."""
    return {
        "overview": "/",
        "queue": f"/queues/{MAIL}/jobs",
        "scheduled": f"/queues/{MAIL}/jobs?state=scheduled",
        "job": f"/queues/{MAIL}/job?id={scene.dead.message_id}",
        "dead": f"/queues/{MAIL}/dead",
        "schedules": "/schedules",
        "flows": "/flows",
        "flow": f"/flow?id={scene.flow_id}",
        "workers": "/workers",
        "events": "/events",
        "search": "/search?by=correlation&for=signup",
        "enqueue": "/enqueue?actor=send_notification",
    }


@pytest.mark.slow
def test_the_pictures_of_the_docs_are_of_every_page(
    page: Page, scene: Scene, guarded_site: Site, tmp_path: Path
) -> None:
    folder = PICTURES if os.environ.get(SCREENSHOTS) == "1" else tmp_path
    folder.mkdir(exist_ok=True)
    for name, path in _paths(scene).items():
        # Below begins a traceback, with the paths of this machine.
        page.set_viewport_size({"width": 1200, "height": 730 if name == "job" else 800})
        _picture(page, path, folder / f"{name}.png")
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    page.emulate_media(color_scheme="light")
    _picture(page, "/", folder / "phone.png")
    page.set_viewport_size({"width": 1200, "height": 480})
    page.emulate_media(color_scheme="dark")
    _picture(page, f"{guarded_site[1]}/sign-in", folder / "sign-in.png")


def _picture(page: Page, path: str, file: Path) -> None:
    page.goto(path)
    page.screenshot(path=str(file))
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(128).save(file, optimize=True)


@pytest.mark.parametrize("colours", ["dark", pytest.param("light", marks=pytest.mark.slow)])
def test_every_page_is_accessible_and_fits_a_phone(
    page: Page, scene: Scene, colours: Literal["dark", "light"]
) -> None:
    violations, widths = {}, {}
    page.emulate_media(color_scheme=colours)
    for name, path in _paths(scene).items():
        page.set_viewport_size({"width": 1200, "height": 800})
        page.goto(path)
        result = Axe().run(page)
        if result.violations_count:
            violations[name] = result.generate_report()
        page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        widths[name] = page.evaluate("document.documentElement.scrollWidth")
    assert violations == {}
    assert {name: width for name, width in widths.items() if width > PHONE["width"]} == {}


def test_pages_are_kept_fresh_and_say_so_when_they_are_not(
    chromium: Chromium, site: Site, scene: Scene
) -> None:
    page = chromium.new_page(base_url=site[1])
    page.clock.install()
    page.goto("/events")
    expect(page.get_by_text("9f8e7d-live")).to_have_count(0)
    payload = {"userId": "u1", "type": "in_app", "title": ""}
    scene.send.broker.enqueue(scene.send.message(payload).copy(message_id="9f8e7d-live"))
    page.clock.fast_forward(3_000)
    expect(page.get_by_text("9f8e7d-live")).to_be_visible()
    page.route("**/events", lambda route: route.fulfill(status=503))
    page.clock.fast_forward(3_000)
    expect(page.get_by_text("Not up to date")).to_be_visible()
    page.unroute("**/events")
    page.clock.fast_forward(3_000)
    expect(page.get_by_text("Not up to date")).to_be_hidden()
    page.close()


def test_the_keyboard_is_enough(page: Page, scene: Scene) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("queue")
    page.keyboard.press("/")
    expect(page.get_by_label("that is, or contains")).to_be_focused()
    page.keyboard.type("send_notification")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("for=send_notification"))
    page.keyboard.press("g")
    page.keyboard.press("w")
    expect(page).to_have_url(re.compile("/workers$"))


def test_a_search_goes_on_by_itself_until_there_is_a_job(
    page: Page, stage: StreamsBroker, scene: Scene
) -> None:
    stage.enqueue(Message("many", "count", (), {}, {}))
    k = stage.commands.keys("many")
    stage.client.register_script(CLONE)([k.ready[0], k.job_prefix], [12_000, 0, "ready"])
    needle = Message[Any]("many", "count", (), {}, {"correlation_id": "needle"})
    stage.enqueue(needle)
    page.goto("/queues/many/jobs?by=correlation&for=needle")
    expect(page.get_by_text("None so far")).to_be_visible()
    page.get_by_role("link", name="Search on").click()
    expect(page.get_by_role("link", name=needle.message_id)).to_be_visible()
    stage.inspector.purge("many")


def test_a_search_tells_how_far_it_is_while_the_page_is_kept_fresh(
    chromium: Chromium, site: Site, stage: StreamsBroker, scene: Scene
) -> None:
    first = "/queues/parts/jobs?by=correlation&for=nobody"
    stage.enqueue(Message("parts", "count", (), {}, {}))
    k = stage.commands.keys("parts")
    stage.client.register_script(CLONE)([k.ready[0], k.job_prefix], [10_000, 0, "ready"])
    page = chromium.new_page(base_url=site[1])
    page.clock.install()
    page.goto(first)
    asked: list[Route] = []

    def answer(route: Route) -> None:
        """The first part for the second; the third keeps the search waiting."""
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(response=route.fetch(url=f"{site[1]}{first}"))

    page.route("**/jobs?*after=*", answer)
    page.get_by_role("link", name="Search on").click()
    expect(page.get_by_text("None in 2 parts so far; looking on.")).to_be_visible()
    page.locator("[data-live=jobs]").evaluate("each => { each.dataset.seen = true }")
    page.clock.fast_forward(3_000)
    expect(page.locator("[data-live=jobs][data-seen]")).to_have_count(0)
    expect(page.get_by_text("None in 2 parts so far; looking on.")).to_be_visible()
    page.close()
    stage.inspector.purge("parts")


def test_light_and_dark_are_the_systems_until_one_is_chosen(page: Page, scene: Scene) -> None:
    def background() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.goto("/")
    dark = background()
    page.emulate_media(color_scheme="light")
    light = background()
    assert light != dark
    page.get_by_role("button", name="Light or dark").click()
    assert background() == dark
    page.reload()
    assert background() == dark


def test_an_operator_clicks_through(page: Page, stage: StreamsBroker, scene: Scene) -> None:
    page.goto("/")
    page.get_by_role("region", name="Queues").get_by_role("link", name=MAIL).click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_have_text("Pause: done.")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert stage.inspector.queue(MAIL).paused
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("Limits", exact=True).click()
    page.get_by_label("Starts in one period").fill("50")
    page.get_by_role("button", name="Set limits").click()
    expect(page.get_by_text("Limits", exact=True)).to_be_visible()
    assert stage.inspector.limit_of(MAIL) == QueueLimit(None, 50, 1_000)

    page.get_by_role("link", name="scheduled").click()
    page.get_by_role("region", name="Jobs").get_by_role("link").first.click()
    page.get_by_role("button", name="Run now").click()
    eventually(lambda: stage.inspector.queue(MAIL).due, lambda due: due == 1)

    page.goto(f"/queues/{MAIL}/jobs")
    page.get_by_role("region", name="Jobs").get_by_role("link").last.click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state--cancelled").first).to_be_visible()


def test_an_operator_reveals_and_retries(page: Page, stage: StreamsBroker, scene: Scene) -> None:
    page.goto(f"/queues/{MAIL}/dead")
    page.get_by_label("Error contains").fill("550")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name=scene.dead.message_id).click()
    expect(page.get_by_text("MailRefused: 550").first).to_be_visible()
    expect(page.get_by_text("You have mail")).to_have_count(0)
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_text("You have mail")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".state--queued").first).to_be_visible()
    record = stage.jobs.get(scene.dead)
    assert record is not None
    assert record.state is State.QUEUED


def test_an_operator_redrives_and_deletes_by_filter_and_sees_how_far_it_is(
    page: Page, stage: StreamsBroker
) -> None:
    buried(stage, "parcels", ["the gateway is away", "no such address"] * 3)
    page.goto("/queues/parcels/dead?error=gateway")
    page.get_by_role("button", name="Redrive all").click()
    expect(page.get_by_text("Redrive all: begun.")).to_be_visible()
    expect(page.get_by_text(re.compile("redrive all: 3 letters.*done"))).to_be_visible()
    assert stage.inspector.queue("parcels").dead == 3
    page.goto("/queues/parcels/dead")
    page.get_by_label("for good").check()
    page.get_by_role("button", name="Delete all").click()
    expect(page.get_by_text(re.compile("delete all: 3 letters.*done"))).to_be_visible()
    assert stage.inspector.queue("parcels").dead == 0


def test_a_schedule_is_run_and_a_job_enqueued(
    page: Page, stage: StreamsBroker, scene: Scene
) -> None:
    info = stage.inspector.queue(FILES)
    page.goto("/schedules")
    row = page.get_by_role("row").filter(has_text="clean-up")
    row.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("process_file").first).to_be_visible()
    after = stage.inspector.queue(FILES)
    assert after.ready + after.in_flight == info.ready + info.in_flight + 1

    page.goto("/enqueue")
    page.get_by_label("Actor").select_option("send_notification")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("userId").fill("u2")
    page.get_by_label("type").select_option("push")
    page.get_by_label("title").fill("From a form")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator(".state--queued").first).to_be_visible()
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_text("From a form")).to_be_visible()


# -- FAULTS 64 ------------------------------------------------------------------------------------

CORPUS = (
    "<script>window.attacked = 1</script>",
    '"><img src=x onerror="window.attacked=1">',
    "'><svg/onload=window.attacked=1>",
    "javascript:window.attacked=1",
    "</title></textarea></script><script>window.attacked=1</script>",
    '" autofocus onfocus="window.attacked=1" x="',
    "{{ 7*7 }}${7*7}<%= 7*7 %>",
    "<iframe srcdoc='<script>parent.attacked=1</script>'></iframe>",
    "\u2028</pre><a href=javascript:window.attacked=1>x</a>",
    "<style>*{display:none}</style><base href=//evil.example>",
)
#: What of the corpus would be there as an element if a page let it through.
ELEMENTS = (
    "script:not([src]), img, iframe, style, base, "
    "[onerror], [onload], [onfocus], a[href^=javascript]"
)


def _poisoned(broker: StreamsBroker) -> list[str]:
    """Put each text of the corpus wherever somebody else's text can be; the pages to look at."""
    client, keys = broker.client, broker.commands.keys("poisoned")
    paths = ["/", "/events", "/workers", "/queues/poisoned/jobs", "/queues/poisoned/dead"]
    paths += [f"/queues/poisoned/jobs?state={state.value}" for state in State]
    for index, text in enumerate(CORPUS):
        client.sadd(f"{{{broker.namespace}}}:queues", text)
        entry: Any = {
            "id": f"{index}{text}",
            "actor": text,
            "at": "1700000000000",
            "args": f"[{_json(text)}]",
            "options": f'{{"correlation_id": {_json(text)}, {_json(text)}: {_json(text)}}}',
        }
        client.xadd(keys.ready[0], entry)
        client.xadd(keys.events, {"event": text, "id": text, "actor": text, "error": text})
        job = f"{keys.job_prefix}dead-{index}"
        record: Any = {"state": "dead", "finished": 1, "actor": text, "error": text, "worker": text}
        client.hset(job, mapping=record | {"correlation": text, "trace": text, "note": text})
        client.zadd(keys.recent("dead"), {f"dead-{index}": 1})
        paths.append(f"/queues/poisoned/job?id=dead-{index}")
    client.xgroup_create(keys.ready[0], "workers", "0")
    for text in CORPUS:
        client.xreadgroup("workers", text, {keys.ready[0]: ">"}, count=1)
    client.sadd(f"{{{broker.namespace}}}:queues", "poisoned")
    return paths


def _json(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture
def attacked(broker: StreamsBroker, chromium: Chromium) -> Iterator[Page]:
    """A page of a dashboard that only this test has."""
    with served(broker, {}) as (_, url), _opened(chromium, url) as page:
        yield page


@pytest.mark.faults
def test_64_no_text_of_a_job_runs_as_a_script(attacked: Page, broker: StreamsBroker) -> None:
    page = attacked
    for path in _poisoned(broker):
        _harmless(page, path)


@pytest.mark.slow
@pytest.mark.faults
def test_64_no_text_of_a_dead_letter_or_a_search_runs_as_a_script(
    attacked: Page, broker: StreamsBroker, start_worker: StartWorker
) -> None:
    page = attacked
    broker.unknown_actor_grace = 0
    broker.declare_queue("poisoned")
    _poisoned(broker)
    broker.client.xgroup_destroy(broker.commands.keys("poisoned").ready[0], "workers")
    start_worker(broker, queues={"poisoned"})
    dead = eventually(
        lambda: broker.inspector.dead_page("poisoned").letters,
        lambda letters: len(letters) >= len(CORPUS),
    )
    _harmless(page, "/queues/poisoned/dead")
    for letter in dead:
        _harmless(page, page.url)
        page.get_by_role("link", name=letter.id, exact=True).first.click()
        _harmless(page, None)
        page.get_by_role("button", name="Reveal").click()
        _harmless(page, None)
        page.goto("/queues/poisoned/dead")
    for text in CORPUS:
        page.goto("/search")
        page.get_by_label("that is, or contains").fill(text)
        page.get_by_role("button", name="Search").click()
        _harmless(page, None)


def _harmless(page: Page, path: str | None) -> None:
    if path is not None:
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
    assert page.evaluate("window.attacked") is None, page.url
    assert page.locator(ELEMENTS).count() == 0, page.url
    assert "49" not in page.title()


# -- FAULTS 65 ------------------------------------------------------------------------------------


@contextmanager
def _evil_site(pages: dict[str, str]) -> Iterator[str]:
    """Another origin on this machine: another site, since its name is another one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(pages[self.path].encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def guarded_site(broker: StreamsBroker, chromium: Chromium) -> Iterator[Site]:
    users = f"olga:operator:{cheap_hash(PASSWORD)}"
    with served(broker, {"HEADRACE_DASHBOARD_USERS": users}) as made:
        yield made


@pytest.mark.faults
def test_65_another_site_can_neither_post_nor_frame_nor_read(
    chromium: Chromium, broker: StreamsBroker, send: Any, guarded_site: Site
) -> None:
    send.send("a")
    url = guarded_site[1]
    pages = {
        "/post": f'<form method=post action="{url}/actions/pause"><input name=queue value=mail>'
        "</form><script>document.forms[0].submit()</script>",
        "/frame": f'<iframe id=f src="{url}/queues/mail/jobs"></iframe>',
        "/link": f'<a href="{url}/queues/mail/jobs?state=queued">a link is fine</a>',
        "/read": f'<script>fetch("{url}/", {{credentials: "include"}})'
        ".then(r => r.text(), e => 'refused').then(t => document.title = t)</script>",
    }
    context = chromium.new_context(base_url=url)
    page = context.new_page()
    page.goto("/sign-in")
    page.get_by_label("Name").fill("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    with _evil_site(pages) as evil:
        with page.expect_response(re.compile("/actions/pause")) as answer:
            page.goto(f"{evil}/post")
        assert answer.value.status in (401, 403)
        assert not broker.inspector.queue("mail").paused

        page.goto(f"{evil}/frame")
        frame = page.frames[1]
        eventually(lambda: frame.evaluate("location.href"), lambda url: url[:7] == "chrome-")

        page.goto(f"{evil}/link")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("mail")

        page.goto(f"{evil}/read")
        expect(page).to_have_title("refused")
    context.close()


@pytest.mark.faults
def test_65_nobody_sees_anything_without_credentials(
    chromium: Chromium, send: Any, guarded_site: Site, work: Callable[[], None]
) -> None:
    message = send.send("olga@example.com", refused="secret words")
    work()
    context = chromium.new_context(base_url=guarded_site[1])
    page = context.new_page()
    for path in ("/", "/queues/mail/jobs", f"/queues/mail/job?id={message.message_id}", "/events"):
        page.goto(path)
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        shown = page.content()
        assert not any(text in shown for text in ("mail", "secret words", message.message_id))
    assert Axe().run(page).violations_count == 0
    page.get_by_label("Name").fill("olga")
    page.get_by_label("Password").fill("a guess")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    context.close()
