CREATE VIEW quarantine AS
SELECT s.key,
       s.bucket,
       s.etag,
       s.version_id,
       s.size_bytes,
       s.last_modified,
       q.released_at IS NULL AS active,
       q.reason,
       q.expected,
       q.found,
       q.quarantined_at,
       q.released_at,
       q.released_by,
       q.nightly_run_id,
       q.flow_run_id
FROM quarantined q
JOIN scan s ON s.id = q.scan_id;

COMMENT ON VIEW quarantine IS
    'One row for every object that cannot be restored as it is, and why. The object itself stays where it is.';
COMMENT ON COLUMN quarantine.key IS
    'Key of the master in its bucket.';
COMMENT ON COLUMN quarantine.bucket IS
    'Bucket of the master.';
COMMENT ON COLUMN quarantine.etag IS
    'ETag of the object that was refused; a changed object is tried again.';
COMMENT ON COLUMN quarantine.version_id IS
    'Version of the object, where it is known.';
COMMENT ON COLUMN quarantine.size_bytes IS
    'Size of the object in bytes.';
COMMENT ON COLUMN quarantine.last_modified IS
    'When the object was last changed, as the bucket says.';
COMMENT ON COLUMN quarantine.active IS
    'Whether it is in quarantine now; false once it was released.';
COMMENT ON COLUMN quarantine.reason IS
    'Why it was refused, in a sentence.';
COMMENT ON COLUMN quarantine.expected IS
    'What was expected of it.';
COMMENT ON COLUMN quarantine.found IS
    'What was found instead.';
COMMENT ON COLUMN quarantine.quarantined_at IS
    'When it was put in quarantine.';
COMMENT ON COLUMN quarantine.released_at IS
    'When a person released it.';
COMMENT ON COLUMN quarantine.released_by IS
    'Who released it.';
COMMENT ON COLUMN quarantine.nightly_run_id IS
    'The night that refused it; NULL if a person started the run.';
COMMENT ON COLUMN quarantine.flow_run_id IS
    'Prefect flow run that refused it.';
