"""A row for every face that was found, and the view that shows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from db.migrations.views import drop_views, replace_views

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

VIEWS = "6986a6a748e63d9978629ed433e8748cdc7fd00213f78e7feff532efb281fad1"


def upgrade() -> None:
    """Make the table, and put the views in again."""
    drop_views()
    op.create_table(
        "face",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("restoration_id", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("box_left", sa.Double(), nullable=False),
        sa.Column("box_top", sa.Double(), nullable=False),
        sa.Column("box_right", sa.Double(), nullable=False),
        sa.Column("box_bottom", sa.Double(), nullable=False),
        sa.Column("landmarks", JSONB(), nullable=False),
        sa.Column("height_px", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("worked_px", sa.Integer(), nullable=True),
        sa.Column("fidelity", sa.Double(), nullable=True),
        sa.Column("landmark_movement", sa.Double(), nullable=True),
        sa.Column("low_difference", sa.Double(), nullable=True),
        sa.Column("identity_distance", sa.Double(), nullable=True),
        sa.Column("identity_measure", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("weights_sha256", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('restored', 'reverted', 'left alone')", name=op.f("ck_face_outcome_known")),
        sa.ForeignKeyConstraint(
            ["restoration_id", "attempt"],
            ["attempt.restoration_id", "attempt.number"],
            name="fk_face_restoration_id_attempt",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_face"),
        sa.UniqueConstraint("restoration_id", "attempt", "number", name="uq_face_restoration_id_attempt_number"),
    )
    op.create_index("ix_face_model", "face", ["model_id", "weights_sha256"])
    replace_views(VIEWS)


def downgrade() -> None:
    """Take it out again; the views of before are not kept, so there are none until the next upgrade."""
    drop_views()
    op.drop_table("face")
