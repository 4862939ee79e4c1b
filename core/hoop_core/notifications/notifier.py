"""Follows the log and tells people. Each channel has a task of its own: one that hangs holds up nobody."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import Settings
from hoop_core.config.notifications import NotificationSettings
from hoop_core.errors import ConfigError, HoopError, where
from hoop_core.model import account_key
from hoop_core.notifications.channels import Channel, NotSent
from hoop_core.notifications.chats import Chat
from hoop_core.notifications.cursors import Cursor, Cursors, LeaseLost
from hoop_core.notifications.happenings import Happening, happening
from hoop_core.notifications.messages import Message, message
from hoop_core.notifications.metrics import LAG, MESSAGES
from hoop_core.notifications.reminders import Reminders
from hoop_core.notifications.webhook import Webhook
from hoop_core.store import Store

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 300.0
_REMIND_SECONDS = 30.0
_LEASE_SECONDS = 30.0
"""Beyond what sending itself may take."""


def channel_of(settings: NotificationSettings) -> Channel:
    """Raises ConfigError for an address or a secret that cannot be used."""
    return Webhook(settings) if settings.kind == "webhook" else Chat(settings)


def channels_of(settings: Settings) -> list[Channel]:
    """Raises ConfigError."""
    names = [n.name for n in settings.notifications]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(
            f"Two notification channels are called {', '.join(twice)}.",
            "How far a channel has told of the log is kept by its name.",
        )
    return [channel_of(n) for n in settings.notifications]


def sender_of(origin: str) -> str:
    """What ids of messages begin with: the same for all replicas of one log."""
    return f"msg_{hashlib.sha256(origin.encode()).hexdigest()[:12]}"


class Notifier:
    """All channels of this process."""

    def __init__(
        self,
        channels: Sequence[Channel],
        store: Store,
        log: AuditLog,
        desk: ApprovalDesk,
        *,
        owner: str,
        public_url: str,
        origin: str,
        reminders: Reminders,
        poll_seconds: float = 1.0,
    ) -> None:
        self._channels, self._desk, self._reminders = channels, desk, reminders
        self._cursors = Cursors(store, log, owner=owner)
        self._public_url, self._sender = public_url.rstrip("/"), sender_of(origin)
        self._poll = poll_seconds

    @property
    def configured(self) -> bool:
        return bool(self._channels)

    def begin(self) -> None:
        """New channels start here. Raises StoreUnavailable."""
        self._cursors.begin([c.settings.name for c in self._channels])

    async def run(self) -> None:
        """Tell for ever."""
        async with asyncio.TaskGroup() as tasks:
            for channel in self._channels:
                tasks.create_task(self._follow(channel))
            tasks.create_task(self._remind())

    async def _follow(self, channel: Channel) -> None:
        while True:
            try:
                worked = await self.tell_next(channel)
            except HoopError as e:
                worked = False
                _log.warning("a channel cannot follow", channel=channel.settings.name, why=e.text)
            except Exception as e:  # the next try may find better
                worked = False
                _log.error("a channel failed", channel=channel.settings.name, where=where(e))
            if not worked:
                await asyncio.sleep(self._poll)

    async def _remind(self) -> None:
        wanted = {e for c in self._channels for e in c.settings.events}
        if not wanted & {"expiring", "review_open"}:
            return
        while True:
            try:
                await asyncio.to_thread(self._reminders.remind)
            except HoopError as e:
                _log.warning("reminders cannot be written", why=e.text)
            except Exception as e:
                _log.error("reminders failed inside Hoop", where=where(e))
            await asyncio.sleep(_REMIND_SECONDS)

    async def tell_next(self, channel: Channel) -> bool:
        """Send the channel's next message, if there is one; whether there may be more at once.

        Raises StoreUnavailable.
        """
        settings = channel.settings
        at, rows = await asyncio.to_thread(self._cursors.news, settings.name)
        if at is None or not rows:
            if at is not None:
                LAG.labels(settings.name).set(0)
            return False
        last, news = await asyncio.to_thread(self._first_for, settings, rows)
        seconds = settings.timeout_seconds + _LEASE_SECONDS
        if not await asyncio.to_thread(self._cursors.claim, settings.name, at, seconds):
            return False
        try:
            if news is None:  # nothing for this channel among them
                await asyncio.to_thread(self._cursors.advance, settings.name, last)
                return True
            return await self._tell(channel, at, *news)
        except LeaseLost:
            _log.warning("another replica took the channel over", channel=settings.name)
            return False

    def _first_for(
        self, settings: NotificationSettings, rows: Sequence[Row[Any]]
    ) -> tuple[int, tuple[Happening, Approval] | None]:
        """The first of the entries that the channel tells of; else the last that it need not tell of."""
        accounts = set(map(account_key, settings.accounts))
        for row in rows:
            news = happening(row.seq, row.kind, row.entry)
            if news is None or news.event not in settings.events:
                continue
            approval = self._desk.get(news.approval)
            if settings.approvers and not set(settings.approvers) & set(approval.approvers):
                continue
            if accounts and approval.body.get("account") not in accounts:
                continue
            return row.seq, (news, approval)
        return rows[-1].seq, None

    async def _tell(
        self, channel: Channel, at: Cursor, news: Happening, approval: Approval
    ) -> bool:
        """Send it, and move on or come back later. Raises LeaseLost, StoreUnavailable."""
        name, last = channel.settings.name, at.tries + 1
        LAG.labels(name).set(_age(news.at))
        try:
            await channel.send(self._composed(channel.settings, news, approval))
        except NotSent as e:
            if not e.for_good and last < channel.settings.tries:
                MESSAGES.labels(name, "failed").inc()
                await asyncio.to_thread(self._cursors.failed, name, e.why, pause(at.tries))
                return False
            MESSAGES.labels(name, "given_up").inc()
            _log.error("a notification is given up", channel=name, why=e.why)
            entry = {
                "channel": name,
                "of_entry": news.seq,
                "event": news.event,
                "approval": news.approval,
                "tries": last,
                "why": e.why,
            }
            await asyncio.to_thread(self._cursors.give_up, name, news.seq, entry)
            return True
        MESSAGES.labels(name, "sent").inc()
        await asyncio.to_thread(self._cursors.advance, name, news.seq)
        return True

    def _composed(
        self, settings: NotificationSettings, news: Happening, approval: Approval
    ) -> Message:
        """Raises NotSent: one request that cannot be put into words must not hold up those behind it."""
        page = f"{self._public_url}/approvals/{approval.id}"
        try:
            return message(
                news, approval, page=page, sender=self._sender, show_sql=settings.show_sql
            )
        except Exception as e:
            _log.error("a message cannot be composed", approval=approval.id, where=where(e))
            raise NotSent("it could not be put into words", for_good=True) from None


def pause(tries: int) -> float:
    """Seconds before the next try: doubling, up to five minutes, and never the same for all channels."""
    longest = min(2.0 ** min(tries + 1, 12), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it


def _age(at: datetime) -> float:
    return max(0.0, (utc_now() - at).total_seconds())
