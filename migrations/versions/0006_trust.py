"""The trust root: its keys, signed metadata and targets; ledger entries by the digest of their record.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_index("ix_ledger_entry_digest", "ledger_entry", ["digest"], unique=False)
    op.create_table(
        "trust_key",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("retired_at", INTEGER, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trust_key"),
        sa.UniqueConstraint("public_key", name="uq_trust_key_public_key"),
    )
    op.create_table(
        "trust_metadata",
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("expires_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("role", "version", name="pk_trust_metadata"),
    )
    op.create_table(
        "trust_target",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("published_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("path", "sha256", name="pk_trust_target"),
    )
    op.create_table(
        "trust_model",
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("added_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_trust_model_model_id"),
        sa.PrimaryKeyConstraint("model_id", name="pk_trust_model"),
    )


def downgrade() -> None:
    for table in ("trust_model", "trust_target", "trust_metadata", "trust_key"):
        op.drop_table(table)
    op.drop_index("ix_ledger_entry_digest", table_name="ledger_entry")
