"""The public views, and the role that may read nothing else."""

from __future__ import annotations

from db.migrations.views import drop_reader, drop_views, replace_views

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

VIEWS = "7bf46de8fd28e81cff2594ae3a5c70fa87b9c8bcf45ef855816c7653bc1cde88"


def upgrade() -> None:
    """Put the views in and let the reader role read them."""
    replace_views(VIEWS)


def downgrade() -> None:
    """Take the views out, and the role where nothing else needs it."""
    drop_views()
    drop_reader()
