"""Batches and their attempts, signs of life, the schedule nights are checked against; and the views that show them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from db.migrations.views import drop_views, replace_views

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VIEWS = "faaf0f9d99dfe1cd38b2c2c3939bcb51db3037b637f4d48e58253e3defbeee63"


def upgrade() -> None:
    """Make the tables, give nights their new columns, and put the views in again."""
    drop_views()
    op.create_table(
        "batch",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("nightly_run_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("scan_keys", ARRAY(sa.Text()), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'submitted'"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("alive_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('submitted', 'running', 'ended', 'crashed', 'cancelled')", name=op.f("ck_batch_state_known")
        ),
        sa.ForeignKeyConstraint(["nightly_run_id"], ["nightly_run.id"], name="fk_batch_nightly_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("nightly_run_id", "number", name="uq_batch_nightly_run_id_number"),
        sa.UniqueConstraint("flow_run_id", name="uq_batch_flow_run_id"),
    )
    op.create_table(
        "night_schedule",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_night_schedule"),
    )
    for column in (
        sa.Column("excluded", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cold", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("parameters", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("scheduled_for", sa.DateTime(timezone=True), nullable=True),
        sa.Column("alive_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    ):
        op.add_column("nightly_run", column)
    op.create_index("ix_nightly_run_scheduled_for", "nightly_run", ["scheduled_for"])
    op.create_index(
        "ix_restoration_claimed_by", "restoration", ["claimed_by"], postgresql_where=sa.text("claimed_by IS NOT NULL")
    )
    replace_views(VIEWS)


def downgrade() -> None:
    """Take all of it out again; the views of before are not kept, so there are none until the next upgrade."""
    drop_views()
    op.drop_index("ix_restoration_claimed_by", "restoration")
    op.drop_index("ix_nightly_run_scheduled_for", "nightly_run")
    for name in ("alive_at", "scheduled_for", "parameters", "cold", "excluded"):
        op.drop_column("nightly_run", name)
    op.drop_table("night_schedule")
    op.drop_table("batch")
