"""C2PA manifests and soft bindings.

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "c2pa_authority",
        sa.Column("id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_root_key", sa.LargeBinary(), nullable=False),
        sa.Column("signer", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_signer_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_binding", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_c2pa_authority"),
    )
    op.create_table(
        "c2pa_manifest",
        sa.Column("user_key_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("manifest_id", sa.String(), nullable=False),
        sa.Column("binding", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("built_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["user_key_id"], ["user_key.id"], name="fk_c2pa_manifest_user_key_id"),
        sa.PrimaryKeyConstraint("user_key_id", name="pk_c2pa_manifest"),
        sa.UniqueConstraint("binding", name="uq_c2pa_manifest_binding"),
        sa.UniqueConstraint("manifest_id", name="uq_c2pa_manifest_manifest_id"),
    )


def downgrade() -> None:
    op.drop_table("c2pa_manifest")
    op.drop_table("c2pa_authority")
