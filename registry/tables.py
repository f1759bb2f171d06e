"""Every table of the registry, imported in one place so that foreign keys and migrations see them all."""

from registry.accounts import models as _accounts
from registry.api import repeats as _repeats
from registry.attribution import models as _attribution
from registry.c2pa import models as _c2pa
from registry.cases import models as _cases
from registry.copies import models as _copies
from registry.db import Base
from registry.generators import models as _generators
from registry.identity import SigningKey
from registry.jobs import models as _jobs
from registry.keys import models as _keys
from registry.ledger import models as _ledger
from registry.lineage import models as _lineage
from registry.resolve import models as _resolve
from registry.trust import models as _trust

metadata = Base.metadata

__all__ = [
    "SigningKey",
    "_accounts",
    "_attribution",
    "_c2pa",
    "_cases",
    "_copies",
    "_generators",
    "_jobs",
    "_keys",
    "_ledger",
    "_lineage",
    "_repeats",
    "_resolve",
    "_trust",
    "metadata",
]
