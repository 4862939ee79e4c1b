"""Follows the log and tells people. Each channel has a task of its own: one that hangs holds up nobody."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.cursors import Cursor, Cursors, LeaseLost, pause
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import Settings
from hoop_core.config.notifications import NotificationSettings
from hoop_core.errors import ConfigError, HoopError, where
from hoop_core.model import account_key
from hoop_core.notifications.aside import Aside, name_of
from hoop_core.notifications.channels import Channel, NotSent
from hoop_core.notifications.chats import Chat
from hoop_core.notifications.happenings import Happening, happening
from hoop_core.notifications.messages import Message, alert, message
from hoop_core.notifications.metrics import LAG, MESSAGES
from hoop_core.notifications.reminders import Reminders
from hoop_core.notifications.webhook import Webhook
from hoop_core.store import Store
from hoop_core.store.tables import TOLD_OF

_log = structlog.get_logger(__name__)
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
        self._cursors = Cursors(store, log, owner=owner, failed="notification.failed", only=TOLD_OF)
        self._aside = Aside(store, owner=owner)
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
        """Send the channel's next message, and one that was set aside, if there are; whether there may be more at
        once. Raises StoreUnavailable.
        """
        try:
            told = await self._tell_next(channel)
        except LeaseLost:
            _log.warning("another replica took the channel over", channel=channel.settings.name)
            told = False
        try:
            return await self._tell_aside(channel) or told
        except LeaseLost:
            return told

    async def _tell_next(self, channel: Channel) -> bool:
        settings = channel.settings
        at, rows = await asyncio.to_thread(self._cursors.news, settings.name)
        if at is None or not rows:
            if at is not None and not await asyncio.to_thread(self._aside.groups, settings.name):
                LAG.labels(settings.name).set(0)
            return False
        if not await asyncio.to_thread(
            self._cursors.claim, settings.name, at, settings.timeout_seconds + _LEASE_SECONDS
        ):
            return False
        aside = await asyncio.to_thread(self._aside.groups, settings.name)  # under the lease
        last, news = await asyncio.to_thread(self._first_for, settings, rows, without=aside)
        if news is None:  # nothing for this channel among them
            await asyncio.to_thread(self._cursors.advance, settings.name, last)
            return True
        return await self._tell(channel, settings.name, at, *news)

    async def _tell_aside(self, channel: Channel) -> bool:
        """The next message of one approval that was set aside; it keeps its order."""
        settings = channel.settings
        group = await asyncio.to_thread(self._aside.due, settings.name)
        if group is None:
            return False
        name = name_of(settings.name, group)
        at, rows = await asyncio.to_thread(self._cursors.news, name)
        if at is None or not await asyncio.to_thread(
            self._cursors.claim, name, at, settings.timeout_seconds + _LEASE_SECONDS
        ):
            return False
        reached = await asyncio.to_thread(self._aside.reached, settings.name)
        rows = [row for row in rows if row.seq <= reached]
        if not rows:
            closed = await asyncio.to_thread(self._aside.close, settings.name, group)
            if not closed:
                await asyncio.to_thread(self._cursors.advance, name, at.seq)
            return closed
        last, news = await asyncio.to_thread(self._first_for, settings, rows, only=group)
        if news is None:
            await asyncio.to_thread(self._cursors.advance, name, last)
            return True
        return await self._tell(channel, name, at, *news)

    def _first_for(
        self,
        settings: NotificationSettings,
        rows: Sequence[Row[Any]],
        *,
        only: str | None = None,
        without: frozenset[str] = frozenset(),
    ) -> tuple[int, tuple[Happening, Approval | None] | None]:
        """The first of the entries that the channel tells of; else the last that it need not tell of."""
        for row in rows:
            if not row.entry:  # its time to be kept is over
                continue
            news = happening(row.seq, row.kind, row.entry)
            if news is None or news.event not in settings.events:
                continue
            group = _group(news)
            if group in without or only not in {None, group}:
                continue
            approval = self._desk.get(news.approval) if news.approval else None
            if _concerns(settings, news, approval):
                return row.seq, (news, approval)
        return rows[-1].seq, None

    async def _tell(
        self,
        channel: Channel,
        cursor: str,
        at: Cursor,
        news: Happening,
        approval: Approval | None,
    ) -> bool:
        """Send it, and move on or come back later. Raises LeaseLost, StoreUnavailable."""
        name, last = channel.settings.name, at.tries + 1
        LAG.labels(name).set(_age(news.at))
        try:
            await channel.send(self._composed(channel.settings, news, approval))
        except NotSent as e:
            again = last < channel.settings.tries or (
                cursor != name and await asyncio.to_thread(self._aside.is_down, name)
            )
            if not e.for_good and again:
                MESSAGES.labels(name, "failed").inc()
                return await self._failed(cursor, name, news, e.why, pause(at.tries))
            MESSAGES.labels(name, "given_up").inc()
            _log.error("a notification is given up", channel=name, why=e.why)
            entry = {
                "channel": name,
                "of_entry": news.seq,
                "event": news.event,
                "approval": news.approval or None,
                "tries": last,
                "why": e.why,
            }
            await asyncio.to_thread(self._cursors.give_up, cursor, news.seq, entry)
            return True
        MESSAGES.labels(name, "sent").inc()
        await asyncio.to_thread(self._cursors.advance, cursor, news.seq)
        return True

    async def _failed(
        self, cursor: str, channel: str, news: Happening, why: str, pause_seconds: float
    ) -> bool:
        """Come back later; what is about others goes on at once, unless so much fails that the service is down."""
        if cursor == channel and await asyncio.to_thread(
            self._aside.put, channel, _group(news), news.seq, why, pause_seconds
        ):
            return True
        await asyncio.to_thread(self._cursors.failed, cursor, why, pause_seconds)
        return False

    def _composed(
        self, settings: NotificationSettings, news: Happening, approval: Approval | None
    ) -> Message:
        """Raises NotSent: one request that cannot be put into words must not hold up those behind it."""
        try:
            if approval is None:
                return alert(news, page=self._public_url, sender=self._sender)
            page = f"{self._public_url}/approvals/{approval.id}"
            return message(
                news, approval, page=page, sender=self._sender, show_sql=settings.show_sql
            )
        except Exception as e:
            _log.error("a message cannot be composed", entry=news.seq, where=where(e))
            raise NotSent("it could not be put into words", for_good=True) from None


def _group(news: Happening) -> str:
    """What keeps its order among itself: all of one approval; an alert stands alone."""
    return news.approval or f"entry-{news.seq}"


def _concerns(settings: NotificationSettings, news: Happening, approval: Approval | None) -> bool:
    """Whether a channel is for such news."""
    if approval is None:  # an alert
        accounts = set(map(account_key, settings.accounts))
        named = account_key(str(news.data.get("account")))
        return not settings.approvers and (not accounts or named in accounts)
    if settings.approvers and not set(settings.approvers) & set(approval.approvers):
        return False
    accounts = set(map(account_key, settings.accounts))
    return not accounts or approval.body.get("account") in accounts


def _age(at: datetime) -> float:
    return max(0.0, (utc_now() - at).total_seconds())
