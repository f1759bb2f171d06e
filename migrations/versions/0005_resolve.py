"""Resolution grants, budgets, queries and unmasking.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "resolve_grant",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("daily_units", INTEGER, nullable=False),
        sa.Column("granted_by", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("expires_at", INTEGER, nullable=True),
        sa.Column("withdrawn_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_resolve_grant_model_id"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_resolve_grant_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_resolve_grant"),
        sa.UniqueConstraint("grant_id", name="uq_resolve_grant_grant_id"),
    )
    op.create_index("ix_resolve_grant_model_id", "resolve_grant", ["model_id"], unique=False)
    op.create_index("ix_resolve_grant_organisation_id", "resolve_grant", ["organisation_id"], unique=False)
    op.create_table(
        "resolve_budget",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("day", INTEGER, autoincrement=False, nullable=False),
        sa.Column("spent", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("scope", "day", name="pk_resolve_budget"),
    )
    op.create_table(
        "resolve_secret",
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("purpose", name="pk_resolve_secret"),
    )
    op.create_table(
        "resolution",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("resolution_id", sa.String(), nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("grant_id", INTEGER, nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("network", sa.LargeBinary(), nullable=False),
        sa.Column("logits_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("sketches", sa.LargeBinary(), nullable=False),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("images", INTEGER, nullable=False),
        sa.Column("readings", INTEGER, nullable=False),
        sa.Column("repeated", sa.Boolean(), nullable=False),
        sa.Column("units", INTEGER, nullable=False),
        sa.Column("attributed", sa.Boolean(), nullable=False),
        sa.Column("asked_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["resolve_grant.id"], name="fk_resolution_grant_id"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_resolution_model_id"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_resolution_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_resolution"),
        sa.UniqueConstraint("resolution_id", name="uq_resolution_resolution_id"),
    )
    op.create_index("ix_resolution_model_id", "resolution", ["model_id"], unique=False)
    op.create_index("ix_resolution_organisation_id", "resolution", ["organisation_id"], unique=False)
    op.create_index(
        "ix_resolution_scope_model_id_id", "resolution", ["scope", "model_id", "id"], unique=False
    )
    op.create_table(
        "resolved_key",
        sa.Column("resolution_id", INTEGER, nullable=False),
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("pseudonym", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["resolution_id"], ["resolution.id"], name="fk_resolved_key_resolution_id"),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_resolved_key_user_key_id"),
        sa.PrimaryKeyConstraint("resolution_id", "user_key_id", name="pk_resolved_key"),
    )
    op.create_table(
        "unmasking",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("unmasking_id", sa.String(), nullable=False),
        sa.Column("resolution_id", INTEGER, nullable=False),
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("owner_id", INTEGER, nullable=False),
        sa.Column("pseudonym", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_at", INTEGER, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_unmasking_organisation_id"
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["organisation.id"], name="fk_unmasking_owner_id"),
        sa.ForeignKeyConstraint(["resolution_id"], ["resolution.id"], name="fk_unmasking_resolution_id"),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_unmasking_user_key_id"),
        sa.PrimaryKeyConstraint("id", name="pk_unmasking"),
        sa.UniqueConstraint("unmasking_id", name="uq_unmasking_unmasking_id"),
    )
    op.create_index("ix_unmasking_organisation_id", "unmasking", ["organisation_id"], unique=False)
    op.create_index("ix_unmasking_owner_id", "unmasking", ["owner_id"], unique=False)
    op.create_index("ix_unmasking_resolution_id", "unmasking", ["resolution_id"], unique=False)


def downgrade() -> None:
    for table in ("unmasking", "resolved_key", "resolution", "resolve_secret", "resolve_budget"):
        op.drop_table(table)
    op.drop_table("resolve_grant")
