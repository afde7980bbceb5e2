"""The one place where secrets are taken out of what is shown, logged or written down."""

from __future__ import annotations

import logging
import re
from typing import Final

HIDDEN: Final = "***"
_SIGNED: Final = re.compile(
    r"(?i)((?:signature|sign|listenKey|apiKey|X-[A-Z]+-APIKEY|passphrase|secret)[\"']?\s*[=:]\s*[\"']?)"
    r"[^&\s\"',}\])]+"
)
_secrets: set[str] = set()


def hide(*secrets: str) -> None:
    """Never show these from now on."""
    _secrets.update(secret for secret in secrets if len(secret) > 3)


def redact(text: str) -> str:
    """The text without anything that is secret: what was given to `hide`, and whatever is signed with it."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SIGNED.sub(rf"\g<1>{HIDDEN}", text)


class Redacting(logging.Filter):
    """Takes secrets out of what a logger writes."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True
