CREATE VIEW batches AS
SELECT b.nightly_run_id,
       b.number,
       b.state,
       b.attempts,
       cardinality(b.scan_keys) AS scans,
       b.scan_keys AS keys,
       b.worker,
       b.reason,
       b.submitted_at,
       b.alive_at,
       b.finished_at,
       b.flow_run_id
FROM batch b;

COMMENT ON VIEW batches IS
    'One row for every batch that a night sent to its workers: how often it was sent, and how it ended.';
COMMENT ON COLUMN batches.nightly_run_id IS
    'The night.';
COMMENT ON COLUMN batches.number IS
    'Number of the batch within its night.';
COMMENT ON COLUMN batches.state IS
    'submitted, running, ended, crashed (sent as often as allowed and never came to its end), or cancelled.';
COMMENT ON COLUMN batches.attempts IS
    'How often it was sent to a worker; more than 1: it crashed, or its worker vanished.';
COMMENT ON COLUMN batches.scans IS
    'How many scans it holds.';
COMMENT ON COLUMN batches.keys IS
    'Keys of its masters.';
COMMENT ON COLUMN batches.worker IS
    'Machine and process of the last attempt.';
COMMENT ON COLUMN batches.reason IS
    'Why the last attempt before this one, or the batch, did not come to its end.';
COMMENT ON COLUMN batches.submitted_at IS
    'When it was sent for the last time.';
COMMENT ON COLUMN batches.alive_at IS
    'Last sign of life of its run; NULL before the first.';
COMMENT ON COLUMN batches.finished_at IS
    'When it ended; NULL while it has not.';
COMMENT ON COLUMN batches.flow_run_id IS
    'Prefect flow run of the last attempt.';
