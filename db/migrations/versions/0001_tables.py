"""The tables, and the trigger that keeps events append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# ALWAYS: the trigger also holds where replication switches ordinary triggers off.
APPEND_ONLY = """
CREATE FUNCTION event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER event_rows_stay BEFORE UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION event_is_append_only();
CREATE TRIGGER event_table_stays BEFORE TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION event_is_append_only();
ALTER TABLE event ENABLE ALWAYS TRIGGER event_rows_stay;
ALTER TABLE event ENABLE ALWAYS TRIGGER event_table_stays;
"""


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "master",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("bits", sa.Integer(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("orientation", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("dpi_x", sa.Double(), nullable=True),
        sa.Column("dpi_y", sa.Double(), nullable=True),
        sa.Column("icc_name", sa.Text(), nullable=True),
        sa.Column("notes", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("first_read", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_master_sha256_is_hex")),
        sa.PrimaryKeyConstraint("sha256", name="pk_master"),
    )
    op.create_table(
        "nightly_run",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("recipe_name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("listed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("ignored", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("known_quarantined", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("given_up", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("planned", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("restored", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("quarantined", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("left", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("digest", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint(
            "state IN ('running', 'completed', 'completed_with_failures', 'failed')",
            name=op.f("ck_nightly_run_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_nightly_run"),
        sa.UniqueConstraint("flow_run_id", name="uq_nightly_run_flow_run_id"),
    )
    op.create_table(
        "scan",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_modified", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("master_sha256", sa.String(length=64), nullable=True),
        sa.CheckConstraint("octet_length(key) BETWEEN 1 AND 1024", name=op.f("ck_scan_key_length")),
        sa.ForeignKeyConstraint(["master_sha256"], ["master.sha256"], name="fk_scan_master_sha256"),
        sa.PrimaryKeyConstraint("id", name="pk_scan"),
        sa.UniqueConstraint(
            "bucket",
            "key",
            "etag",
            "size_bytes",
            "version_id",
            name="uq_scan_object",
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index("ix_scan_master_sha256", "scan", ["master_sha256"])
    op.create_table(
        "quarantined",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("found", sa.Text(), nullable=False),
        sa.Column("quarantined_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("nightly_run_id", sa.BigInteger(), nullable=True),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["nightly_run_id"], ["nightly_run.id"], name="fk_quarantined_nightly_run_id"),
        sa.ForeignKeyConstraint(["scan_id"], ["scan.id"], name="fk_quarantined_scan_id"),
        sa.PrimaryKeyConstraint("id", name="pk_quarantined"),
        sa.UniqueConstraint("scan_id", name="uq_quarantined_scan_id"),
    )
    op.create_index("ix_quarantined_nightly_run_id", "quarantined", ["nightly_run_id"])
    op.create_table(
        "restoration",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("master_sha256", sa.String(length=64), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("recipe_name", sa.Text(), nullable=False),
        sa.Column("recipe_digest", sa.Text(), nullable=False),
        sa.Column("recipe", JSONB(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("planned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (claimed_by IS NOT NULL)", name=op.f("ck_restoration_running_is_claimed")
        ),
        sa.CheckConstraint("id ~ '^[0-9a-f]{16}$'", name=op.f("ck_restoration_id_is_hex")),
        sa.CheckConstraint(
            "state IN ('planned', 'running', 'restored', 'skipped', 'failed', 'quarantined')",
            name=op.f("ck_restoration_state_known"),
        ),
        sa.CheckConstraint(
            "(claimed_by IS NULL) = (lease_until IS NULL)", name=op.f("ck_restoration_lease_has_holder")
        ),
        sa.ForeignKeyConstraint(["master_sha256"], ["master.sha256"], name="fk_restoration_master_sha256"),
        sa.ForeignKeyConstraint(["scan_id"], ["scan.id"], name="fk_restoration_scan_id"),
        sa.PrimaryKeyConstraint("id", name="pk_restoration"),
    )
    op.create_index("ix_restoration_master_recipe", "restoration", ["master_sha256", "recipe_name"])
    op.create_index("ix_restoration_scan_id", "restoration", ["scan_id"])
    op.create_table(
        "attempt",
        sa.Column("restoration_id", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("nightly_run_id", sa.BigInteger(), nullable=True),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.Column("glassplate_version", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'restored', 'skipped', 'failed', 'quarantined', 'lost')",
            name=op.f("ck_attempt_state_known"),
        ),
        sa.ForeignKeyConstraint(["nightly_run_id"], ["nightly_run.id"], name="fk_attempt_nightly_run_id"),
        sa.ForeignKeyConstraint(["restoration_id"], ["restoration.id"], name="fk_attempt_restoration_id"),
        sa.ForeignKeyConstraint(["scan_id"], ["scan.id"], name="fk_attempt_scan_id"),
        sa.PrimaryKeyConstraint("restoration_id", "number", name="pk_attempt"),
    )
    op.create_index("ix_attempt_nightly_run_id", "attempt", ["nightly_run_id"])
    op.create_index("ix_attempt_scan_id", "attempt", ["scan_id"])
    op.create_table(
        "derivative",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("restoration_id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("bits", sa.Integer(), nullable=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("outside_mask_sha256", sa.Text(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_derivative_sha256_is_hex")),
        sa.ForeignKeyConstraint(["restoration_id"], ["restoration.id"], name="fk_derivative_restoration_id"),
        sa.PrimaryKeyConstraint("id", name="pk_derivative"),
        sa.UniqueConstraint("bucket", "key", name="uq_derivative_bucket_key"),
    )
    op.create_index("ix_derivative_restoration_id", "derivative", ["restoration_id"])
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scan_key", sa.Text(), nullable=True),
        sa.Column("restoration_id", sa.String(length=16), nullable=True),
        sa.Column("nightly_run_id", sa.BigInteger(), nullable=True),
        sa.Column("detail", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("once", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["nightly_run_id"], ["nightly_run.id"], name="fk_event_nightly_run_id"),
        sa.ForeignKeyConstraint(["restoration_id"], ["restoration.id"], name="fk_event_restoration_id"),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
        sa.UniqueConstraint("once", name="uq_event_once"),
    )
    op.create_index("ix_event_nightly_run_id", "event", ["nightly_run_id"])
    op.create_index("ix_event_restoration_id", "event", ["restoration_id"])
    op.create_index("ix_event_scan_key", "event", ["scan_key"])
    op.create_table(
        "score",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("restoration_id", sa.String(length=16), nullable=False),
        sa.Column("derivative", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("moment", sa.Text(), nullable=False),
        sa.CheckConstraint("direction IN ('higher', 'lower', 'neutral')", name=op.f("ck_score_direction_known")),
        sa.CheckConstraint("moment IN ('before', 'after', 'fidelity')", name=op.f("ck_score_moment_known")),
        sa.ForeignKeyConstraint(["restoration_id"], ["restoration.id"], name="fk_score_restoration_id"),
        sa.PrimaryKeyConstraint("id", name="pk_score"),
        sa.UniqueConstraint(
            "restoration_id", "derivative", "metric", "moment", name="uq_score_restoration_id_derivative_metric_moment"
        ),
    )
    op.create_table(
        "stage_run",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("restoration_id", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("weights_sha256", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("data_terms", sa.Text(), nullable=True),
        sa.Column("stage_version", sa.Text(), nullable=False),
        sa.Column("result_key", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.Column("measures", JSONB(), nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.Column("task_run_id", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('done', 'skipped', 'failed', 'quarantined')", name=op.f("ck_stage_run_outcome_known")
        ),
        sa.ForeignKeyConstraint(
            ["restoration_id", "attempt"],
            ["attempt.restoration_id", "attempt.number"],
            name="fk_stage_run_restoration_id_attempt",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_stage_run"),
        sa.UniqueConstraint("restoration_id", "attempt", "stage", name="uq_stage_run_restoration_id_attempt_stage"),
    )
    op.create_index("ix_stage_run_model", "stage_run", ["model_id", "weights_sha256"])
    op.execute(APPEND_ONLY)


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("stage_run")
    op.drop_table("score")
    op.drop_table("event")
    op.drop_table("derivative")
    op.drop_table("attempt")
    op.drop_table("restoration")
    op.drop_table("quarantined")
    op.drop_table("scan")
    op.drop_table("nightly_run")
    op.drop_table("master")
    op.execute("DROP FUNCTION event_is_append_only()")
