"""Access over HTTP: names of their own for each organisation, sign-in, API tokens, idempotency keys.

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
    _create_sign_in()
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


def _create_sign_in() -> None:
    with op.batch_alter_table("person") as person:
        person.add_column(sa.Column("email", sa.String(), nullable=True))
        person.add_column(sa.Column("password_hash", sa.String(), nullable=True))
        person.add_column(sa.Column("disabled_at", INTEGER, nullable=True))
        person.create_unique_constraint("uq_person_email", ["email"])
    op.create_table(
        "invitation",
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_invitation_person_id"),
        sa.PrimaryKeyConstraint("person_id", name="pk_invitation"),
        sa.UniqueConstraint("secret_sha256", name="uq_invitation_secret_sha256"),
    )
    op.create_table(
        "authenticator",
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("confirmed_at", INTEGER, nullable=True),
        sa.Column("last_step", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_authenticator_person_id"),
        sa.PrimaryKeyConstraint("person_id", name="pk_authenticator"),
    )
    op.create_table(
        "recovery_code",
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("code_sha256", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_recovery_code_person_id"),
        sa.PrimaryKeyConstraint("person_id", "code_sha256", name="pk_recovery_code"),
    )
    op.create_table(
        "passkey",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("credential_id", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", INTEGER, nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("last_used_at", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_passkey_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_passkey"),
        sa.UniqueConstraint("credential_id", name="uq_passkey_credential_id"),
    )
    op.create_index("ix_passkey_person_id", "passkey", ["person_id"], unique=False)
    op.create_table(
        "linked_identity",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_linked_identity_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_linked_identity"),
        sa.UniqueConstraint("issuer", "subject", name="uq_linked_identity_issuer_subject"),
    )
    op.create_index("ix_linked_identity_person_id", "linked_identity", ["person_id"], unique=False)
    op.create_table(
        "ceremony",
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("person_id", INTEGER, nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_ceremony_person_id"),
        sa.PrimaryKeyConstraint("secret_sha256", name="pk_ceremony"),
    )
    op.create_table(
        "web_session",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("person_id", INTEGER, nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("seen_at", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_web_session_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_web_session"),
        sa.UniqueConstraint("secret_sha256", name="uq_web_session_secret_sha256"),
    )
    op.create_index("ix_web_session_person_id", "web_session", ["person_id"], unique=False)
    op.create_table(
        "sign_in_attempts",
        sa.Column("source_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("failures", INTEGER, nullable=False),
        sa.Column("last_at", INTEGER, nullable=False),
        sa.Column("locked_until", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("source_sha256", name="pk_sign_in_attempts"),
    )
    op.create_index("ix_sign_in_attempts_last_at", "sign_in_attempts", ["last_at"], unique=False)
    op.create_table(
        "security_event",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("organisation_id", INTEGER, nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name="fk_security_event_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_security_event"),
    )
    op.create_index(
        "ix_security_event_organisation_id_id", "security_event", ["organisation_id", "id"], unique=False
    )


def downgrade() -> None:
    op.drop_table("idempotency_key")
    _drop_sign_in()
    op.drop_index("ix_api_token_organisation_id", table_name="api_token")
    op.drop_table("api_token")
    with op.batch_alter_table("recipient") as recipient:
        recipient.drop_constraint("uq_recipient_organisation_id_email", type_="unique")
        recipient.create_unique_constraint("uq_recipient_email", ["email"])
    with op.batch_alter_table("model") as model:
        model.drop_constraint("uq_model_organisation_id_name_version", type_="unique")
        model.create_unique_constraint("uq_model_name_version", ["name", "version"])


def _drop_sign_in() -> None:
    op.drop_index("ix_security_event_organisation_id_id", table_name="security_event")
    op.drop_table("security_event")
    op.drop_index("ix_sign_in_attempts_last_at", table_name="sign_in_attempts")
    op.drop_table("sign_in_attempts")
    op.drop_index("ix_web_session_person_id", table_name="web_session")
    op.drop_table("web_session")
    op.drop_table("ceremony")
    op.drop_index("ix_linked_identity_person_id", table_name="linked_identity")
    op.drop_table("linked_identity")
    op.drop_index("ix_passkey_person_id", table_name="passkey")
    op.drop_table("passkey")
    op.drop_table("recovery_code")
    op.drop_table("authenticator")
    op.drop_table("invitation")
    with op.batch_alter_table("person") as person:
        person.drop_constraint("uq_person_email", type_="unique")
        person.drop_column("disabled_at")
        person.drop_column("password_hash")
        person.drop_column("email")
