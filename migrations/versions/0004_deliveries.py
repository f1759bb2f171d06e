"""Streamed deliveries: digests known before sending, ranges sent, one-time links, countersignatures.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "stored_digest",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_stored_digest"),
    )
    op.create_table(
        "copy_file",
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_copy_file_user_key_id"),
        sa.PrimaryKeyConstraint("user_key_id", "path", name="pk_copy_file"),
    )
    op.create_table(
        "download_link",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("link_id", sa.String(), nullable=False),
        sa.Column("user_key_id", INTEGER, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("expires_at", INTEGER, nullable=False),
        sa.Column("used_at", INTEGER, nullable=True),
        sa.Column("withdrawn_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_download_link_user_key_id"),
        sa.PrimaryKeyConstraint("id", name="pk_download_link"),
        sa.UniqueConstraint("link_id", name="uq_download_link_link_id"),
        sa.UniqueConstraint("secret_sha256", name="uq_download_link_secret_sha256"),
    )
    op.create_index("ix_download_link_user_key_id", "download_link", ["user_key_id"], unique=False)
    _extend_downloads()
    op.create_table(
        "transfer",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("download_id", INTEGER, nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("start", INTEGER, nullable=False),
        sa.Column("stop", INTEGER, nullable=False),
        sa.Column("claimed", INTEGER, nullable=False),
        sa.Column("active_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["download_id"], ["download.id"], name="fk_transfer_download_id"),
        sa.PrimaryKeyConstraint("id", name="pk_transfer"),
    )
    op.create_index("ix_transfer_download_id", "transfer", ["download_id"], unique=False)
    op.create_table(
        "countersignature",
        sa.Column("download_id", INTEGER, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", INTEGER, nullable=False),
        sa.Column("ledger_index", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["download_id"], ["download.id"], name="fk_countersignature_download_id"),
        sa.PrimaryKeyConstraint("download_id", name="pk_countersignature"),
        sa.UniqueConstraint("ledger_index", name="uq_countersignature_ledger_index"),
    )
    op.create_table(
        "model_signing_key",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_signing_key"),
    )


def _extend_downloads() -> None:
    with op.batch_alter_table("download") as download:
        download.add_column(sa.Column("user_agent", sa.String(), nullable=False, server_default=""))
        download.add_column(sa.Column("token_id", INTEGER, nullable=True))
        download.add_column(sa.Column("person_id", INTEGER, nullable=True))
        download.add_column(sa.Column("link_id", INTEGER, nullable=True))
        download.add_column(sa.Column("form", sa.String(), nullable=False, server_default="folder"))
        download.add_column(sa.Column("active_at", INTEGER, nullable=False, server_default="0"))
        download.add_column(sa.Column("sent", sa.String(), nullable=False, server_default="{}"))
        download.create_foreign_key("fk_download_token_id", "api_token", ["token_id"], ["id"])
        download.create_foreign_key("fk_download_person_id", "person", ["person_id"], ["id"])
        download.create_foreign_key("fk_download_link_id", "download_link", ["link_id"], ["id"])
        download.create_index("ix_download_link_id", ["link_id"], unique=False)
    op.execute("UPDATE download SET active_at = COALESCE(ended_at, started_at)")
    with op.batch_alter_table("download") as download:
        for name in ("user_agent", "form", "active_at", "sent"):
            download.alter_column(name, server_default=None)


def downgrade() -> None:
    op.drop_table("model_signing_key")
    op.drop_table("countersignature")
    op.drop_index("ix_transfer_download_id", table_name="transfer")
    op.drop_table("transfer")
    with op.batch_alter_table("download") as download:
        download.drop_index("ix_download_link_id")
        for name in ("token_id", "person_id", "link_id"):
            download.drop_constraint(f"fk_download_{name}", type_="foreignkey")
        for name in ("user_agent", "token_id", "person_id", "link_id", "form", "active_at", "sent"):
            download.drop_column(name)
    op.drop_index("ix_download_link_user_key_id", table_name="download_link")
    op.drop_table("download_link")
    op.drop_table("copy_file")
    op.drop_table("stored_digest")
