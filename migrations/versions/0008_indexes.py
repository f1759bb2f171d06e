"""What lists and counts need at ten million keys: whose a key or delivery is, without a join; a count of each
model's keys; indexes in the order that pages have (see docs/operations-data.md).

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

OWNERS = {
    "user_key": "SELECT organisation_id FROM model WHERE model.id = user_key.model_id",
    "download": "SELECT organisation_id FROM user_key WHERE user_key.id = download.user_key_id",
}


def upgrade() -> None:
    op.create_table(
        "key_count",
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("issued", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_key_count_model_id"),
        sa.PrimaryKeyConstraint("model_id", name="pk_key_count"),
    )
    op.execute(
        "INSERT INTO key_count (model_id, issued) SELECT model_id, count(*) FROM user_key GROUP BY model_id"
    )
    for table, owner in OWNERS.items():
        op.add_column(table, sa.Column("organisation_id", INTEGER, nullable=True))
        op.execute(f"UPDATE {table} SET organisation_id = ({owner})")  # noqa: S608  (no foreign text)
        with op.batch_alter_table(table) as changed:
            changed.alter_column("organisation_id", existing_type=INTEGER, nullable=False)
            changed.create_foreign_key(
                f"fk_{table}_organisation_id", "organisation", ["organisation_id"], ["id"]
            )
    with op.batch_alter_table("user_key") as user_key:
        user_key.drop_index("ix_user_key_model_id")
        user_key.drop_index("ix_user_key_recipient_id")
        for column in ("organisation_id", "model_id", "recipient_id"):
            user_key.create_index(
                f"ix_user_key_{column}_ledger_index", [column, "ledger_index"], unique=False
            )
    op.create_index("ix_security_event_kind_id", "security_event", ["kind", "id"], unique=False)
    op.create_index("ix_download_organisation_id_id", "download", ["organisation_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_download_organisation_id_id", table_name="download")
    op.drop_index("ix_security_event_kind_id", table_name="security_event")
    with op.batch_alter_table("user_key") as user_key:
        for column in ("organisation_id", "model_id", "recipient_id"):
            user_key.drop_index(f"ix_user_key_{column}_ledger_index")
        user_key.create_index("ix_user_key_model_id", ["model_id"], unique=False)
        user_key.create_index("ix_user_key_recipient_id", ["recipient_id"], unique=False)
    for table in reversed(OWNERS):
        with op.batch_alter_table(table) as changed:
            changed.drop_constraint(f"fk_{table}_organisation_id", type_="foreignkey")
            changed.drop_column("organisation_id")
    op.drop_table("key_count")
