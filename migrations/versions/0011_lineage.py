"""Lineage fingerprints of models (see docs/lineage.md).

Revision: 0011, after 0010.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "lineage_fingerprint",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("network", sa.LargeBinary(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("samples", INTEGER, nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("computed_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_lineage_fingerprint_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_lineage_fingerprint"),
        sa.UniqueConstraint("model_id", "network", name="uq_lineage_fingerprint_model_id_network"),
    )


def downgrade() -> None:
    op.drop_table("lineage_fingerprint")
