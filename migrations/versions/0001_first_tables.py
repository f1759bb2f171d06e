"""The first tables: accounts, models, keys, copies and the ledger.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only for a column declared INTEGER, which is 64 bits wide there.
INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "organisation",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organisation"),
        sa.UniqueConstraint("name", name="uq_organisation_name"),
    )
    op.create_table(
        "person",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name="fk_person_organisation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("name", name="uq_person_name"),
    )
    op.create_index("ix_person_organisation_id", "person", ["organisation_id"], unique=False)
    op.create_table(
        "recipient",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_recipient_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_recipient"),
        sa.UniqueConstraint("email", name="uq_recipient_email"),
    )
    op.create_index("ix_recipient_organisation_id", "recipient", ["organisation_id"], unique=False)
    op.create_table(
        "signing_key",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("registry_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_signing_key"),
        sa.UniqueConstraint("registry_id", name="uq_signing_key_registry_id"),
    )
    op.create_table(
        "model",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("adapter", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scheme", sa.String(), nullable=True),
        sa.Column("bits", INTEGER, nullable=True),
        sa.Column("strength", sa.Double(), nullable=True),
        sa.Column("shift", INTEGER, nullable=True),
        sa.Column("psnr", sa.Double(), nullable=True),
        sa.Column("basis", sa.LargeBinary(), nullable=True),
        sa.Column("basis_bits", INTEGER, nullable=True),
        sa.Column("basis_strength", sa.String(), nullable=True),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("secret_commitment", sa.LargeBinary(), nullable=False),
        sa.Column("registered_at", INTEGER, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_index", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name="fk_model_organisation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("ledger_index", name="uq_model_ledger_index"),
        sa.UniqueConstraint("name", "version", name="uq_model_name_version"),
    )
    op.create_index("ix_model_organisation_id", "model", ["organisation_id"], unique=False)
    op.create_table(
        "network_version",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("foreign_images", INTEGER, nullable=False),
        sa.Column("installed_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_network_version_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_network_version"),
        sa.UniqueConstraint("model_id", "digest", name="uq_network_version_model_id_digest"),
        sa.UniqueConstraint("model_id", "version", name="uq_network_version_model_id_version"),
    )
    op.create_table(
        "user_key",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("key_id", sa.LargeBinary(), nullable=False),
        sa.Column("model_id", INTEGER, nullable=False),
        sa.Column("recipient_id", INTEGER, nullable=False),
        sa.Column("redraws", INTEGER, nullable=False),
        sa.Column("recipient_commitment", sa.LargeBinary(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("issued_at", INTEGER, nullable=False),
        sa.Column("expires_at", INTEGER, nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_index", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_user_key_model_id"),
        sa.ForeignKeyConstraint(["recipient_id"], ["recipient.id"], name="fk_user_key_recipient_id"),
        sa.PrimaryKeyConstraint("id", name="pk_user_key"),
        sa.UniqueConstraint("key_id", name="uq_user_key_key_id"),
        sa.UniqueConstraint("ledger_index", name="uq_user_key_ledger_index"),
    )
    op.create_index("ix_user_key_model_id", "user_key", ["model_id"], unique=False)
    op.create_index("ix_user_key_recipient_id", "user_key", ["recipient_id"], unique=False)
    op.create_table(
        "key_revocation",
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("reason_salt", sa.LargeBinary(), nullable=False),
        sa.Column("reason_commitment", sa.LargeBinary(), nullable=False),
        sa.Column("revoked_at", INTEGER, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_index", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_key_revocation_user_key_id"),
        sa.PrimaryKeyConstraint("user_key_id", name="pk_key_revocation"),
        sa.UniqueConstraint("ledger_index", name="uq_key_revocation_ledger_index"),
    )
    op.create_table(
        "delivered_copy",
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("first_delivered_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_delivered_copy_user_key_id"),
        sa.PrimaryKeyConstraint("user_key_id", name="pk_delivered_copy"),
    )
    op.create_table(
        "download",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("download_id", sa.String(), nullable=False),
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", INTEGER, nullable=False),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("size", INTEGER, nullable=True),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.Column("ledger_index", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_download_user_key_id"),
        sa.PrimaryKeyConstraint("id", name="pk_download"),
        sa.UniqueConstraint("download_id", name="uq_download_download_id"),
        sa.UniqueConstraint("ledger_index", name="uq_download_ledger_index"),
    )
    op.create_index("ix_download_user_key_id", "download", ["user_key_id"], unique=False)
    op.create_table(
        "ledger_head",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_head"),
    )
    op.create_table(
        "ledger_entry",
        sa.Column("index", INTEGER, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("logged_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_ledger_entry"),
    )
    op.create_table(
        "ledger_tile",
        sa.Column("level", INTEGER, autoincrement=False, nullable=False),
        sa.Column("number", INTEGER, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_ledger_tile"),
    )
    op.create_table(
        "ledger_checkpoint",
        sa.Column("size", INTEGER, autoincrement=False, nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_ledger_checkpoint"),
    )


def downgrade() -> None:
    op.drop_table("ledger_checkpoint")
    op.drop_table("ledger_tile")
    op.drop_table("ledger_entry")
    op.drop_table("ledger_head")
    op.drop_table("download")
    op.drop_table("delivered_copy")
    op.drop_table("key_revocation")
    op.drop_table("user_key")
    op.drop_table("network_version")
    op.drop_table("model")
    op.drop_table("signing_key")
    op.drop_table("recipient")
    op.drop_table("person")
    op.drop_table("organisation")
