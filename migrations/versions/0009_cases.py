"""Cases: their images, timestamps, findings, notes and audit trail.

Revision: 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "investigation",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("assigned_to", INTEGER, nullable=True),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("rounds", INTEGER, nullable=False),
        sa.Column("disclosed", sa.Boolean(), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("changed_at", INTEGER, nullable=False),
        sa.Column("closed_at", INTEGER, nullable=True),
        sa.Column("erased_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["assigned_to"], ["person.id"], name="fk_investigation_assigned_to"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_investigation_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_investigation"),
        sa.UniqueConstraint("case_id", name="uq_investigation_case_id"),
    )
    op.create_index("ix_investigation_organisation_id_id", "investigation", ["organisation_id", "id"])
    op.create_index(
        "ix_investigation_organisation_id_status_id", "investigation", ["organisation_id", "status", "id"]
    )
    op.create_table(
        "case_timestamp",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("investigation_id", INTEGER, nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("logged_at", INTEGER, nullable=False),
        sa.Column("ledger_index", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["investigation_id"], ["investigation.id"], name="fk_case_timestamp_investigation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_case_timestamp"),
        sa.UniqueConstraint("ledger_index", name="uq_case_timestamp_ledger_index"),
    )
    op.create_index("ix_case_timestamp_investigation_id", "case_timestamp", ["investigation_id"])
    op.create_table(
        "case_image",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("investigation_id", INTEGER, nullable=False),
        sa.Column("timestamp_id", INTEGER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("width", INTEGER, nullable=False),
        sa.Column("height", INTEGER, nullable=False),
        sa.Column("notes", sa.String(), nullable=False),
        sa.Column("added_by", sa.String(), nullable=False),
        sa.Column("added_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["investigation_id"], ["investigation.id"], name="fk_case_image_investigation_id"
        ),
        sa.ForeignKeyConstraint(["timestamp_id"], ["case_timestamp.id"], name="fk_case_image_timestamp_id"),
        sa.PrimaryKeyConstraint("id", name="pk_case_image"),
        sa.UniqueConstraint("image_id", name="uq_case_image_image_id"),
        sa.UniqueConstraint("investigation_id", "sha256", name="uq_case_image_investigation_id_sha256"),
    )
    op.create_index("ix_case_image_investigation_id", "case_image", ["investigation_id"])
    op.create_index("ix_case_image_timestamp_id", "case_image", ["timestamp_id"])
    op.create_table(
        "case_finding",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("finding_id", sa.String(), nullable=False),
        sa.Column("investigation_id", INTEGER, nullable=False),
        sa.Column("round", INTEGER, nullable=False),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("groups", INTEGER, nullable=False),
        sa.Column("before", INTEGER, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("person_id", INTEGER, nullable=True),
        sa.Column("token_id", INTEGER, nullable=True),
        sa.Column("requested_at", INTEGER, nullable=False),
        sa.Column("found_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(
            ["investigation_id"], ["investigation.id"], name="fk_case_finding_investigation_id"
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_case_finding_person_id"),
        sa.ForeignKeyConstraint(["token_id"], ["api_token.id"], name="fk_case_finding_token_id"),
        sa.PrimaryKeyConstraint("id", name="pk_case_finding"),
        sa.UniqueConstraint("finding_id", name="uq_case_finding_finding_id"),
    )
    op.create_index("ix_case_finding_investigation_id", "case_finding", ["investigation_id"])
    op.create_table(
        "case_finding_image",
        sa.Column("finding_id", INTEGER, nullable=False),
        sa.Column("place", INTEGER, autoincrement=False, nullable=False),
        sa.Column("image_id", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["case_finding.id"], name="fk_case_finding_image_finding_id"),
        sa.ForeignKeyConstraint(["image_id"], ["case_image.id"], name="fk_case_finding_image_image_id"),
        sa.PrimaryKeyConstraint("finding_id", "place", name="pk_case_finding_image"),
    )
    op.create_index("ix_case_finding_image_image_id", "case_finding_image", ["image_id"])
    op.create_table(
        "case_note",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("note_id", sa.String(), nullable=False),
        sa.Column("investigation_id", INTEGER, nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("written_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["investigation_id"], ["investigation.id"], name="fk_case_note_investigation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_case_note"),
        sa.UniqueConstraint("note_id", name="uq_case_note_note_id"),
    )
    op.create_index("ix_case_note_investigation_id", "case_note", ["investigation_id"])
    op.create_table(
        "case_event",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("investigation_id", INTEGER, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["investigation_id"], ["investigation.id"], name="fk_case_event_investigation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_case_event"),
    )
    op.create_index("ix_case_event_investigation_id_id", "case_event", ["investigation_id", "id"])


def downgrade() -> None:
    for table in ("case_event", "case_note", "case_finding_image", "case_finding", "case_image"):
        op.drop_table(table)
    op.drop_table("case_timestamp")
    op.drop_table("investigation")
