CREATE VIEW nightly_runs AS
SELECT n.id AS nightly_run_id,
       n.flow_run_id,
       n.recipe_name AS recipe,
       n.prefix,
       n.state,
       n.started_at,
       n.finished_at,
       extract(epoch FROM n.finished_at - n.started_at)::float8 AS seconds,
       n.listed,
       n.ignored,
       n.unchanged,
       n.known_quarantined,
       n.given_up,
       n.planned,
       n.restored,
       n.skipped,
       n.quarantined,
       n.failed,
       n."left" AS left_over,
       n.excluded,
       n.cold,
       n.scheduled_for,
       n.parameters,
       n.alive_at,
       n.digest
FROM nightly_run n;

COMMENT ON VIEW nightly_runs IS
    'One row for every night: what it found, what it did and its digest.';
COMMENT ON COLUMN nightly_runs.nightly_run_id IS
    'Number of the night.';
COMMENT ON COLUMN nightly_runs.flow_run_id IS
    'Prefect flow run of the night.';
COMMENT ON COLUMN nightly_runs.recipe IS
    'Name of the recipe the night ran.';
COMMENT ON COLUMN nightly_runs.prefix IS
    'Prefix of the masters that the night looked at.';
COMMENT ON COLUMN nightly_runs.state IS
    'running, completed, completed_with_failures, or failed.';
COMMENT ON COLUMN nightly_runs.started_at IS
    'When the night began.';
COMMENT ON COLUMN nightly_runs.finished_at IS
    'When it ended; NULL while it runs, or if it was killed.';
COMMENT ON COLUMN nightly_runs.seconds IS
    'How long it took.';
COMMENT ON COLUMN nightly_runs.listed IS
    'Objects that the bucket listed.';
COMMENT ON COLUMN nightly_runs.ignored IS
    'Objects that are no scans by their names or are empty.';
COMMENT ON COLUMN nightly_runs.unchanged IS
    'Scans that were restored or skipped before.';
COMMENT ON COLUMN nightly_runs.known_quarantined IS
    'Scans in quarantine since an earlier night.';
COMMENT ON COLUMN nightly_runs.given_up IS
    'Scans that failed as often as is allowed.';
COMMENT ON COLUMN nightly_runs.planned IS
    'Scans the night began with.';
COMMENT ON COLUMN nightly_runs.restored IS
    'Scans it restored.';
COMMENT ON COLUMN nightly_runs.skipped IS
    'Scans in which nothing had to be changed.';
COMMENT ON COLUMN nightly_runs.quarantined IS
    'Scans it put in quarantine.';
COMMENT ON COLUMN nightly_runs.failed IS
    'Scans that failed; they come again the next night.';
COMMENT ON COLUMN nightly_runs.left_over IS
    'Scans left for the next night.';
COMMENT ON COLUMN nightly_runs.excluded IS
    'Scans that this night was told to leave out.';
COMMENT ON COLUMN nightly_runs.cold IS
    'Scans in cold storage (Glacier), which cannot be read before the archive asks for them back.';
COMMENT ON COLUMN nightly_runs.scheduled_for IS
    'When it was meant to start; earlier than started_at if it was late or caught up.';
COMMENT ON COLUMN nightly_runs.parameters IS
    'What the night was asked for besides recipe and prefix, as JSON.';
COMMENT ON COLUMN nightly_runs.alive_at IS
    'Its last sign of life; a night in state running that has been silent for minutes was killed.';
COMMENT ON COLUMN nightly_runs.digest IS
    'The night''s report, as Markdown.';
