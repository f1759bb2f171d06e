"""What may be done in a registry, and by whom.

    principal.require(Permission.ISSUE)          # ForbiddenError unless its role and scopes allow it

A role is a set of permissions; a token may narrow its holder's. Which *rows* a principal reaches is another
question: those of its own organisation, and for resolving those that a grant names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from registry.errors import ForbiddenError


class Permission(StrEnum):
    """One kind of request. The values are the scopes of API tokens."""

    READ_MODELS = "models:read"
    WRITE_MODELS = "models:write"
    READ_RECIPIENTS = "recipients:read"
    WRITE_RECIPIENTS = "recipients:write"
    READ_KEYS = "keys:read"
    ISSUE = "keys:issue"
    REVOKE = "keys:revoke"
    OPEN_KEYS = "keys:open"
    DOWNLOAD = "copies:download"
    EXPORT_BUNDLES = "bundles:export"
    RESOLVE = "resolve"
    REQUEST_UNMASKING = "unmask:request"
    APPROVE_UNMASKING = "unmask:approve"
    GRANT = "grants:write"
    READ_JOBS = "jobs:read"
    RUN_JOBS = "jobs:write"
    READ_ACCOUNT = "account:read"
    WRITE_ACCOUNT = "account:write"
    MANAGE_PEOPLE = "people:write"
    MANAGE_ORGANISATIONS = "organisations:write"
    READ_SECURITY_LOG = "security:read"


class Role(StrEnum):
    """What a person does for his organisation."""

    ADMIN = "admin"
    ISSUER = "issuer"
    AUDITOR = "auditor"
    VIEWER = "viewer"


_VIEWER = {
    Permission.READ_MODELS,
    Permission.READ_KEYS,
    Permission.READ_JOBS,
    Permission.READ_ACCOUNT,
    Permission.WRITE_ACCOUNT,
}
PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset(_VIEWER),
    Role.AUDITOR: frozenset({*_VIEWER, Permission.RESOLVE, Permission.REQUEST_UNMASKING}),
    Role.ISSUER: frozenset(
        {
            *_VIEWER,
            Permission.READ_RECIPIENTS,
            Permission.WRITE_RECIPIENTS,
            Permission.ISSUE,
            Permission.REVOKE,
            Permission.DOWNLOAD,
        }
    ),
    Role.ADMIN: frozenset(Permission),
}
"""Only administrators register models, export key tables, open keys, grant, unmask recipients and manage
people."""


@dataclass(frozen=True)
class Principal:
    """Who makes a request: a person or a token, always for one organisation.

    ``scopes`` narrow the role; ``None`` leaves it whole. ``label`` names the principal in logs and receipts.
    """

    organisation: int
    role: Role
    label: str
    person: int | None = None
    token: int | None = None
    scopes: frozenset[Permission] | None = None

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the principal may do."""
        allowed = PERMISSIONS[self.role]
        return allowed if self.scopes is None else allowed & self.scopes

    def require(self, permission: Permission) -> None:
        """:class:`ForbiddenError` unless the principal has the permission."""
        if permission not in self.permissions:
            raise ForbiddenError(
                f"{self.label} lacks the permission {permission.value}.",
                "Ask an administrator of your organisation for a role or a token that has it.",
            )
