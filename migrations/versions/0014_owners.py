"""Whose model a query was on stands on its row, so that a small organisation's page of queries reads a page.

On PostgreSQL, statistics that know that a model and a recipient have one organisation. See
docs/operations-data.md.

Revision: 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("resolution", sa.Column("owner_id", INTEGER, nullable=True))
    op.execute(
        "UPDATE resolution SET owner_id = "
        "(SELECT organisation_id FROM model WHERE model.id = resolution.model_id)"
    )
    with op.batch_alter_table("resolution") as resolution:
        resolution.alter_column("owner_id", existing_type=INTEGER, nullable=False)
        resolution.create_foreign_key("fk_resolution_owner_id", "organisation", ["owner_id"], ["id"])
        resolution.drop_index("ix_resolution_organisation_id")
        resolution.drop_index("ix_resolution_model_id")
        for column in ("organisation_id", "owner_id"):
            resolution.create_index(f"ix_resolution_{column}_id", [column, "id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE STATISTICS st_user_key_owners (dependencies) "
            "ON organisation_id, model_id, recipient_id FROM user_key"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP STATISTICS st_user_key_owners")
    with op.batch_alter_table("resolution") as resolution:
        for column in ("organisation_id", "owner_id"):
            resolution.drop_index(f"ix_resolution_{column}_id")
        resolution.create_index("ix_resolution_organisation_id", ["organisation_id"], unique=False)
        resolution.create_index("ix_resolution_model_id", ["model_id"], unique=False)
        resolution.drop_constraint("fk_resolution_owner_id", type_="foreignkey")
        resolution.drop_column("owner_id")
