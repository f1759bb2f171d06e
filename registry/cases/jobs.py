"""The job that makes the findings of a case."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints

from registry.accounts.permissions import Permission
from registry.api.schemas import Body
from registry.jobs.kinds import job
from registry.jobs.running import Run


class CheckCase(Body):
    """Make the findings of a case that wait."""

    case: Annotated[str, StringConstraints(pattern=r"^case-[0-9a-f]{16}$")]


@job("check-case", CheckCase, Permission.RESOLVE)
def check_case(run: Run, wanted: CheckCase) -> dict[str, Any]:
    """`registry case check`."""
    from registry.cases import checking

    return dict(checking.work(run.home, wanted.case, run.organisation, run.progress("findings")))
