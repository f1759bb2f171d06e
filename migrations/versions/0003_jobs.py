"""Background jobs and their logs.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("arguments", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("done", INTEGER, nullable=False),
        sa.Column("total", INTEGER, nullable=False),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("runner", sa.String(), nullable=True),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("delivered_at", INTEGER, nullable=True),
        sa.Column("started_at", INTEGER, nullable=True),
        sa.Column("beat_at", INTEGER, nullable=True),
        sa.Column("cancel_at", INTEGER, nullable=True),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("result", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name="fk_job_organisation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("job_id", name="uq_job_job_id"),
    )
    op.create_index("ix_job_organisation_id_id", "job", ["organisation_id", "id"], unique=False)
    op.create_index("ix_job_state", "job", ["state"], unique=False)
    op.create_table(
        "job_line",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("job_row", INTEGER, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_row"], ["job.id"], name="fk_job_line_job_row"),
        sa.PrimaryKeyConstraint("id", name="pk_job_line"),
    )
    op.create_index("ix_job_line_job_row_id", "job_line", ["job_row", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_job_line_job_row_id", table_name="job_line")
    op.drop_table("job_line")
    op.drop_index("ix_job_state", table_name="job")
    op.drop_index("ix_job_organisation_id_id", table_name="job")
    op.drop_table("job")
