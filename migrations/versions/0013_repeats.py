"""Answers kept under idempotency keys are deleted when they are old: an index by their time.

Revision: 0013, after 0012.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEX = "ix_idempotency_key_created_at"


def upgrade() -> None:
    op.create_index(INDEX, "idempotency_key", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(INDEX, table_name="idempotency_key")
