CREATE VIEW model_usage AS
SELECT x.model_id,
       x.weights_sha256,
       x.licence,
       x.data_terms,
       x.stage,
       count(DISTINCT x.restoration_id) FILTER (WHERE x.outcome = 'done') AS restorations,
       count(DISTINCT x.restoration_id) FILTER (WHERE x.outcome = 'skipped') AS skipped,
       count(DISTINCT x.restoration_id) FILTER (WHERE x.outcome = 'failed') AS failed,
       min(x.recorded_at) AS first_used,
       max(x.recorded_at) AS last_used,
       coalesce(sum(x.seconds) FILTER (WHERE NOT x.reused), 0) AS seconds
FROM stage_run x
WHERE x.model_id IS NOT NULL
GROUP BY x.model_id, x.weights_sha256, x.licence, x.data_terms, x.stage;

COMMENT ON VIEW model_usage IS
    'One row for every model, weights and stage: on how many photographs it was used, when, and under which terms.';
COMMENT ON COLUMN model_usage.model_id IS
    'Model or algorithm.';
COMMENT ON COLUMN model_usage.weights_sha256 IS
    'sha256 of its weights; NULL for an algorithm without weights.';
COMMENT ON COLUMN model_usage.licence IS
    'Its licence.';
COMMENT ON COLUMN model_usage.data_terms IS
    'Terms of the data it was trained on.';
COMMENT ON COLUMN model_usage.stage IS
    'Stage that used it.';
COMMENT ON COLUMN model_usage.restorations IS
    'Restorations in which it did its work.';
COMMENT ON COLUMN model_usage.skipped IS
    'Restorations in which it ran and found nothing to do.';
COMMENT ON COLUMN model_usage.failed IS
    'Restorations in which it failed at least once.';
COMMENT ON COLUMN model_usage.first_used IS
    'When it was used first.';
COMMENT ON COLUMN model_usage.last_used IS
    'When it was used last.';
COMMENT ON COLUMN model_usage.seconds IS
    'Seconds it ran in all; results taken over from an earlier run cost nothing.';
