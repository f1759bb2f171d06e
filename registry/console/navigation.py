"""What the console's menu holds."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app, request

from registry.accounts.permissions import Permission
from registry.api.access import optional_principal


@dataclass(frozen=True)
class Entry:
    """One line of the menu: ``endpoint`` is its page, ``permission`` what one needs to see it.

    ``blueprints`` are whose pages light it up.
    """

    title: str
    endpoint: str
    permission: Permission
    icon: str
    blueprints: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the present page belongs under this entry."""
        own = self.endpoint.rpartition(".")[0]
        if request.endpoint == self.endpoint:
            return True
        return own != "console" and request.blueprint in (own, *self.blueprints)


_LOOKED_AFTER = ("account_pages", "grant_pages", "job_pages", "trust_pages")

ENTRIES = (
    Entry("Dashboard", "console.dashboard", Permission.READ_MODELS, "dashboard"),
    Entry("Models", "model_pages.index", Permission.READ_MODELS, "models", ("lineage_pages",)),
    Entry("Recipients", "recipient_pages.index", Permission.READ_RECIPIENTS, "recipients"),
    Entry("Copies", "copy_pages.index", Permission.READ_KEYS, "copies"),
    Entry("Cases", "case_pages.index", Permission.RESOLVE, "cases"),
    Entry("Check on device", "device_pages.index", Permission.RESOLVE, "device"),
    Entry("Ledger", "ledger_pages.index", Permission.READ_KEYS, "ledger"),
    Entry("Administration", "admin_pages.index", Permission.READ_ACCOUNT, "administration", _LOOKED_AFTER),
)


def entries() -> list[Entry]:
    """The entries whose pages exist and that the present principal may open."""
    who = optional_principal()
    if who is None:
        return []
    known = current_app.view_functions
    return [entry for entry in ENTRIES if entry.endpoint in known and entry.permission in who.permissions]
