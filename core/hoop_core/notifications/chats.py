"""Slack, Teams, mail and what else Apprise knows: https://github.com/caronc/apprise

Apprise is synchronous and of many authors, so each call has a thread of its own that nobody waits for beyond
the channel's time, and a channel has one of them at most.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from hoop_core.config.notifications import NotificationSettings
from hoop_core.errors import ConfigError
from hoop_core.notifications.channels import NotSent, address
from hoop_core.notifications.fitting import fitted, fitted_title, size
from hoop_core.notifications.messages import Message

if TYPE_CHECKING:
    from apprise import Apprise, AppriseAsset

_AROUND = 64
"""What Apprise puts around a title, and Markdown around a link."""
_INSTALL = "Install Hoop with the extra `notify`: pip install 'hoop-guard[notify]'."


class Chat:
    """One address of Apprise's."""

    def __init__(self, settings: NotificationSettings) -> None:
        """Raises ConfigError for an address that Apprise does not know."""
        self.settings = settings
        self._thread: threading.Thread | None = None
        self._made()

    def _made(self) -> Apprise:
        """Made anew for each message, for the address may have changed. Raises ConfigError."""
        try:
            from apprise import Apprise  # noqa: PLC0415  an optional package
        except ImportError:
            raise ConfigError(
                f"The channel {self.settings.name} needs the package apprise.", _INSTALL
            ) from None
        made = Apprise(asset=_asset())
        # It reports addresses to its own logger, in parts; what matters is said by us, without them.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        if not made.add(address(self.settings)):
            raise ConfigError(
                f"Apprise does not know the address of the channel {self.settings.name}.",
                "https://github.com/caronc/apprise/wiki has the form of each service.",
            )
        return made

    async def send(self, message: Message) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise NotSent("an earlier try has not ended yet")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[bool] = loop.create_future()

        def settle(outcome: bool | NotSent) -> None:
            if ended.done():
                return
            if isinstance(outcome, NotSent):
                ended.set_exception(outcome)
            else:
                ended.set_result(outcome)

        def work() -> None:
            outcome = self._sent(message)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, outcome)

        # A daemon: a service that never answers must not keep the process from ending.
        self._thread = threading.Thread(
            target=work, name=f"notify-{self.settings.name}", daemon=True
        )
        self._thread.start()
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                sent = await ended
        except TimeoutError:
            raise NotSent("no answer in time") from None
        if not sent:
            raise NotSent("the service did not take it")

    def _sent(self, message: Message) -> bool | NotSent:
        """Whatever Apprise raises, its text may hold the address."""
        try:
            made = self._made()
            title, body, form = _fitted(made, message)
            told = made.notify(
                body=body,
                title=title,
                body_format=form,
                interpret_escapes=False,
                timeout=self.settings.timeout_seconds,
            )
            return bool(told)
        except ConfigError as e:
            return NotSent(e.message)
        except Exception as e:
            return NotSent(type(e).__name__)


def _fitted(made: Apprise, message: Message) -> tuple[str, str, str]:
    """Title, text and form, cut to what the target takes; the link is always whole.

    Plain text is escaped for it; only where it reads nothing but Markdown (Teams) would the link be escaped, too, so
    there it is one of Markdown's own.
    """
    target = made[0]
    title = fitted_title(message.title, target.title_maxlen)
    link = f"Open: {message.link}"
    room = target.body_maxlen - size(title) - size(link) - _AROUND
    lines = fitted(message.text.splitlines(), room)
    formats = target.notify_format
    known = formats if isinstance(formats, tuple) else (formats,)
    if [str(f.value) for f in known] != ["markdown"]:
        return title, "\n".join([*lines, link]), "text"
    return title, "\n\n".join([*lines, f"[Open the request]({message.link})"]), "markdown"


def _asset() -> AppriseAsset:
    from apprise import AppriseAsset  # noqa: PLC0415  an optional package

    return AppriseAsset(
        app_id="Hoop",
        app_desc="Hoop",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        async_mode=False,
        http_redirects=False,
        interpret_emojis=False,
        storage_mode="memory",
        pgp_autogen=False,
        pem_autogen=False,
        secure_logging=True,
    )
