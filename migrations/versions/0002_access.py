"""Access over HTTP: names of their own for each organisation, API tokens, idempotency keys.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("model") as model:
        model.drop_constraint("uq_model_name_version", type_="unique")
        model.create_unique_constraint(
            "uq_model_organisation_id_name_version", ["organisation_id", "name", "version"]
        )
    with op.batch_alter_table("recipient") as recipient:
        recipient.drop_constraint("uq_recipient_email", type_="unique")
        recipient.create_unique_constraint("uq_recipient_organisation_id_email", ["organisation_id", "email"])
    op.create_table(
        "api_token",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("person_id", INTEGER, nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("expires_at", INTEGER, nullable=False),
        sa.Column("revoked_at", INTEGER, nullable=True),
        sa.Column("last_used_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_api_token_organisation_id"
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_api_token_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("prefix", name="uq_api_token_prefix"),
    )
    op.create_index("ix_api_token_organisation_id", "api_token", ["organisation_id"], unique=False)
    op.create_table(
        "idempotency_key",
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_idempotency_key_organisation_id"
        ),
        sa.PrimaryKeyConstraint("organisation_id", "key", name="pk_idempotency_key"),
    )


def downgrade() -> None:
    op.drop_table("idempotency_key")
    op.drop_index("ix_api_token_organisation_id", table_name="api_token")
    op.drop_table("api_token")
    with op.batch_alter_table("recipient") as recipient:
        recipient.drop_constraint("uq_recipient_organisation_id_email", type_="unique")
        recipient.create_unique_constraint("uq_recipient_email", ["email"])
    with op.batch_alter_table("model") as model:
        model.drop_constraint("uq_model_organisation_id_name_version", type_="unique")
        model.create_unique_constraint("uq_model_name_version", ["name", "version"])
