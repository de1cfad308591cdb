"""Flows: images into several sizes, and an announcement to a thousand users, while a worker is
killed in the middle. Their trees are drawn at the end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from actors.announcements import Announcement, announce
from actors.digest import Digest
from actors.inbox import Inbox
from actors.preferences import Channel, Preference, Preferences
from actors.renditions import Source
from bench.demo.checks import Check
from bench.demo.control import Wait
from bench.demo.evidence import Evidence
from bench.demo.journal import History
from bench.demo.pictures import image_cases
from bench.demo.sinks import Mail, Push
from bench.demo.users import Brokers
from broker import StreamsBroker
from pipelines import flows
from pipelines.image_pipeline import image_pipeline
from pipelines.notification_fan_out import notification_fan_out
from pipelines.state import FlowRecord
from pipelines.tree import draw

USERS: Final = 1_000
WIDTHS: Final = (40, 80, 160)
FIRST, SECOND = "Maintenance tonight", "Maintenance is over"
OPERATOR: Final = "operator"
_DOMAIN: Final = "@fan-out.example"
_TITLES: Final = frozenset({FIRST, SECOND})
_STEP: Final = "flows: images and a fan-out, a worker killed in the middle"
_VARIANT: Final = 96


@dataclass
class Flows:
    """What is started, and what was seen of it."""

    users: dict[str, Preference]
    images: list[str] = field(default_factory=list)
    #: The sources of the image pipelines.
    sources: list[Source] = field(default_factory=list)
    #: The first tells everybody, the second those who get a digest.
    fan_outs: list[str] = field(default_factory=list)
    killed: int = 0
    killed_at_ms: int = 0
    records: list[FlowRecord] = field(default_factory=list)
    reports: list[object] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)

    @property
    def digests(self) -> list[str]:
        """The users who get one."""
        return [user for user, each in self.users.items() if each.channel == "digest"]

    def drive(
        self,
        brokers: Brokers,
        storage: Path,
        history: History,
        died_at_ms: Callable[[], int],
        wait: Wait,
    ) -> None:
        """Start all, kill a worker once half of the announcements are made, see it through.

        ``died_at_ms`` says when the workers last ended though nobody asked.
        """
        Preferences(brokers.operator.client, brokers.operator.namespace).put(self.users)
        self._start(brokers.producer, storage)
        everybody = flows.get(self.fan_outs[0], broker=brokers.viewer)
        assert everybody is not None
        total = everybody.step("announce").size
        wait(_STEP, lambda: self._done(brokers.viewer) >= total // 2)
        self._kill(history)
        # Its neighbours end in their own time; another kill meanwhile would have nobody to notice.
        wait(_STEP, lambda: died_at_ms() >= self.killed_at_ms)
        wait(_STEP, lambda: all(record.final for record in self._look(brokers.viewer)))
        wait(_STEP, lambda: all(hooks_ended(record) for record in self._look(brokers.viewer)))
        wait(_STEP, lambda: self._digests_sent(brokers))

    def gather(self, brokers: Brokers, evidence: Evidence) -> None:
        """What is there at the end; takes out of the evidence what is nobody else's."""
        self.records = self._look(brokers.viewer)
        self.reports = [
            flows.results(id, "report", broker=brokers.viewer)[0] for id in self.fan_outs
        ]
        for user in self.users:
            items = Inbox(brokers.operator.client, brokers.operator.namespace, user).read()
            self.told[user] = [str(item.content.get("title")) for item in items]
        self.mails = [mail for mail in evidence.mails if _is_ours(mail)]
        evidence.mails = [mail for mail in evidence.mails if not _is_ours(mail)]
        self.pushes = [push for push in evidence.pushes if push.body.get("title") in _TITLES]
        evidence.pushes = [push for push in evidence.pushes if push not in self.pushes]

    def trees(self) -> Iterator[str]:
        """The trees of an image pipeline and of the fan-out."""
        for id in (*self.images[:1], *self.fan_outs[:1]):
            yield from (draw(record) for record in self.records if record.id == id)

    def _start(self, broker: StreamsBroker, storage: Path) -> None:
        for number, case in enumerate(image_cases(_VARIANT)):
            path = storage / case.file_id
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case.source)
            source = Source(file_id=case.file_id, folder=f"renditions/{number}")
            self.sources.append(source)
            pipeline = image_pipeline(source, OPERATOR, WIDTHS)
            self.images.append(flows.start(pipeline, broker=broker))
        for title, users in ((FIRST, list(self.users)), (SECOND, self.digests)):
            announcement = Announcement(title=title, text="Nothing is lost.")
            fan_out = notification_fan_out(announcement, users)
            self.fan_outs.append(flows.start(fan_out, broker=broker))

    def _done(self, broker: StreamsBroker) -> int:
        record = flows.get(self.fan_outs[0], broker=broker)
        return 0 if record is None else record.step("announce").done

    def _kill(self, history: History) -> None:
        """Whichever process began a job last; it may be at one now."""
        starts = [start for events in history.starts.values() for start in events]
        if starts:
            self.killed = max(starts, key=lambda start: start.at_ms).pid
            self.killed_at_ms = time.time_ns() // 1_000_000
            os.kill(self.killed, signal.SIGKILL)

    def _look(self, broker: StreamsBroker) -> list[FlowRecord]:
        found = [flows.get(id, broker=broker) for id in (*self.images, *self.fan_outs)]
        return [record for record in found if record is not None]

    def _digests_sent(self, brokers: Brokers) -> bool:
        own = brokers.operator
        waiting = any(Digest(own.client, own.namespace, user).read() for user in self.digests)
        return not waiting and not brokers.viewer.inspector.size(announce.queue_name)


def plan(scale: float) -> Flows:
    """The users, each with a preference; at a small scale fewer, and still of each kind."""
    channels: list[Channel] = ["email", "push", "digest", "none"]
    count = max(20, round(USERS * scale))
    users = {}
    for number in range(count):
        name = f"fan-{number}"
        channel: Channel = channels[number % 4] if number % 20 < 4 else "in-app"
        email = f"{name}{_DOMAIN}" if channel in ("email", "digest") else None
        users[name] = Preference(channel=channel, email=email)
    return Flows(users)


def hooks_ended(record: FlowRecord) -> bool:
    """Whether what was sent at its end has ended too."""
    return all(step.ended_at is not None for step in record.steps if step.released_at is not None)


def check_flows(found: Flows, storage: Path) -> Check:
    """Every flow finished, every user was told once by the right channel, every image is there."""
    faults = [*_state_faults(found), *_user_faults(found), *_image_faults(found, storage)]
    if not found.killed:
        faults.append("no worker was killed")
    line = (
        f"{len(found.records)} finished though process {found.killed} was killed in the middle; "
        f"{len(found.users)} users told by {len(_expected_channels(found))} channels "
        f"({len(found.mails)} mails), "
        f"{len(found.sources) * len(WIDTHS)} renditions"
    )
    return Check("flows", line, faults)


def _state_faults(found: Flows) -> Iterator[str]:
    for record in found.records:
        if record.state != "completed":
            yield f"{record.name} {record.id}: {record.state}, {record.error}"
        for step in record.steps:
            if step.kind == "step" and step.done != step.size:
                yield f"{record.name}, step {step.name}: {step.done} of {step.size} completed"
    wanted = [_expected_channels(found), {"digest": len(found.digests)}]
    for report, told in zip(found.reports, wanted, strict=True):
        if report != {"told": told, "failed": 0}:
            yield f"fan-out: reported {report}, expected {told}"


def _expected_channels(found: Flows) -> dict[str, int]:
    return dict(Counter(str(each.channel) for each in found.users.values()))


def _user_faults(found: Flows) -> Iterator[str]:
    mailed: dict[str, list[Mail]] = defaultdict(list)
    for mail in found.mails:
        mailed[mail.recipients[0].removesuffix(_DOMAIN)].append(mail)
    pushed = Counter(push.body["userId"] for push in found.pushes if push.status == 201)
    for user, preference in found.users.items():
        if preference.channel == "in-app" and found.told[user] != [FIRST]:
            yield f"inbox of {user}: {found.told[user]}, expected {FIRST!r}"
        elif preference.channel == "push" and not pushed[user]:
            yield f"push to {user}: missing"
        elif preference.channel == "email":
            subjects = {mail.subject for mail in mailed[user]}
            if subjects != {FIRST}:
                yield f"mails to {user}: {sorted(subjects)}, expected {FIRST!r}"
        elif preference.channel == "digest":
            # In one mail, unless the kill parted them by more than a digest's pause.
            text = "".join(mail.text for mail in mailed[user])
            if FIRST not in text or SECOND not in text:
                yield f"digest of {user}: {text!r}, expected both announcements"


def _image_faults(found: Flows, storage: Path) -> Iterator[str]:
    for source in found.sources:
        manifest = storage / source.folder / "manifest.json"
        if not manifest.is_file():
            yield f"{source.folder}: no manifest"
            continue
        for each in json.loads(manifest.read_text("utf-8"))["renditions"]:
            with Image.open(storage / each["path"]) as image:
                if image.width != each["width"]:
                    yield f"{each['path']}: {image.width} wide, expected {each['width']}"


def _is_ours(mail: Mail) -> bool:
    return any(recipient.endswith(_DOMAIN) for recipient in mail.recipients)
