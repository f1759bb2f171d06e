"""What the console's lists need: keys that expire soon, and recipients by the beginning of their addresses.

Revision: 0010, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

EXPIRING = "ix_user_key_organisation_id_expires_at"
BEGINNINGS = "ix_recipient_organisation_id_email_beginning"


def upgrade() -> None:
    expires = sa.text("expires_at IS NOT NULL")
    op.create_index(
        EXPIRING,
        "user_key",
        ["organisation_id", "expires_at"],
        unique=False,
        postgresql_where=expires,
        sqlite_where=expires,
    )
    op.create_index(
        BEGINNINGS,
        "recipient",
        ["organisation_id", "email"],
        unique=False,
        postgresql_ops={"email": "text_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index(BEGINNINGS, table_name="recipient")
    op.drop_index(EXPIRING, table_name="user_key")
