"""Which model's weights another's descend from, as the weights themselves tell (see docs/lineage.md).

Revision: 0015, after 0014.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "weight_kin",
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("kin_id", INTEGER, nullable=False),
        sa.Column("likeness", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_weight_kin_model_id"),
        sa.ForeignKeyConstraint(["kin_id"], ["model.id"], name="fk_weight_kin_kin_id"),
        sa.PrimaryKeyConstraint("model_id", name="pk_weight_kin"),
    )
    op.create_index("ix_weight_kin_kin_id", "weight_kin", ["kin_id"], unique=False)


def downgrade() -> None:
    op.drop_table("weight_kin")
