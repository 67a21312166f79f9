CREATE VIEW restorations AS
SELECT r.id AS restoration_id,
       s.key,
       s.bucket,
       s.etag,
       s.version_id,
       (SELECT array_agg(DISTINCT twin.key ORDER BY twin.key)
        FROM scan twin
        WHERE twin.master_sha256 = r.master_sha256 AND (twin.bucket, twin.key) <> (s.bucket, s.key)) AS other_keys,
       r.master_sha256,
       m.size_bytes AS master_bytes,
       m.media_type AS master_media_type,
       m.width,
       m.height,
       m.channels,
       m.bits,
       r.recipe_name AS recipe,
       r.recipe_digest,
       r.state,
       r.reason,
       stages.damage_coverage,
       stages.done AS stages_done,
       stages.skipped AS stages_skipped,
       stages.models,
       published.bucket AS derivative_bucket,
       published.cleaned_key,
       published.cleaned_sha256,
       published.mask_key,
       published.overlay_key,
       published.preview_key,
       (SELECT jsonb_object_agg(concat_ws('.', sc.derivative, sc.metric, sc.moment), sc.value)
        FROM score sc WHERE sc.restoration_id = r.id) AS scores,
       r.attempts,
       stages.seconds,
       r.planned_at,
       r.started_at,
       r.finished_at,
       r.prefix,
       a.nightly_run_id,
       a.flow_run_id,
       a.glassplate_version,
       a.device
FROM restoration r
JOIN scan s ON s.id = r.scan_id
JOIN master m ON m.sha256 = r.master_sha256
LEFT JOIN attempt a ON a.restoration_id = r.id AND a.number = r.attempts
CROSS JOIN LATERAL (
    SELECT max((x.measures ->> 'damage_coverage')::float8) AS damage_coverage,
           array_agg(x.stage ORDER BY x.position) FILTER (WHERE x.outcome = 'done') AS done,
           array_agg(x.stage ORDER BY x.position) FILTER (WHERE x.outcome = 'skipped') AS skipped,
           array_agg(x.model_id ORDER BY x.position)
               FILTER (WHERE x.outcome = 'done' AND x.model_id IS NOT NULL) AS models,
           sum(x.seconds) AS seconds
    FROM stage_run x WHERE x.restoration_id = r.id AND x.attempt = r.attempts
) AS stages
CROSS JOIN LATERAL (
    SELECT min(d.bucket) AS bucket,
           min(d.key) FILTER (WHERE d.kind = 'cleaned') AS cleaned_key,
           min(d.sha256) FILTER (WHERE d.kind = 'cleaned') AS cleaned_sha256,
           min(d.key) FILTER (WHERE d.kind = 'mask') AS mask_key,
           min(d.key) FILTER (WHERE d.kind = 'overlay') AS overlay_key,
           min(d.key) FILTER (WHERE d.kind = 'preview') AS preview_key
    FROM derivative d WHERE d.restoration_id = r.id
) AS published;

COMMENT ON VIEW restorations IS
    'One row for every master and way of restoring it: what was done to which photograph, by what, and where it lies.';
COMMENT ON COLUMN restorations.restoration_id IS
    '16 hex digits made from the master, the recipe, the weights and the code of the stages; names row and folder.';
COMMENT ON COLUMN restorations.key IS
    'Key of the master in its bucket.';
COMMENT ON COLUMN restorations.bucket IS
    'Bucket of the master.';
COMMENT ON COLUMN restorations.etag IS
    'ETag of the master when it was read.';
COMMENT ON COLUMN restorations.version_id IS
    'Version of the master that was read, in a versioned bucket; else NULL.';
COMMENT ON COLUMN restorations.other_keys IS
    'Keys of other objects with exactly the same bytes; they share this restoration. NULL: there are none.';
COMMENT ON COLUMN restorations.master_sha256 IS
    'sha256 of the master file.';
COMMENT ON COLUMN restorations.master_bytes IS
    'Size of the master file in bytes.';
COMMENT ON COLUMN restorations.master_media_type IS
    'Media type of the master file, such as image/tiff.';
COMMENT ON COLUMN restorations.width IS
    'Width of the master in pixels, as stored.';
COMMENT ON COLUMN restorations.height IS
    'Height of the master in pixels, as stored.';
COMMENT ON COLUMN restorations.channels IS
    'Channels of the master: 1 gray, 3 colour.';
COMMENT ON COLUMN restorations.bits IS
    'Bits per channel of the master: 8 or 16.';
COMMENT ON COLUMN restorations.recipe IS
    'Name of the recipe.';
COMMENT ON COLUMN restorations.recipe_digest IS
    'sha256 of the recipe: equal digests mean the same stages with the same settings.';
COMMENT ON COLUMN restorations.state IS
    'planned (not begun), running, restored, skipped (nothing had to be changed), failed, or quarantined.';
COMMENT ON COLUMN restorations.reason IS
    'Why it was skipped, failed or quarantined.';
COMMENT ON COLUMN restorations.damage_coverage IS
    'Part of the picture that the detector marked as damaged, 0 to 1.';
COMMENT ON COLUMN restorations.stages_done IS
    'Stages that did something, in order.';
COMMENT ON COLUMN restorations.stages_skipped IS
    'Stages that had nothing to do or could not run, in order; their reasons are in stage_runs.';
COMMENT ON COLUMN restorations.models IS
    'Models and algorithms that did the work, in order.';
COMMENT ON COLUMN restorations.derivative_bucket IS
    'Bucket of the restored version.';
COMMENT ON COLUMN restorations.cleaned_key IS
    'Key of the cleaned derivative: only damaged pixels differ from the master.';
COMMENT ON COLUMN restorations.cleaned_sha256 IS
    'sha256 of the cleaned derivative.';
COMMENT ON COLUMN restorations.mask_key IS
    'Key of the damage mask.';
COMMENT ON COLUMN restorations.overlay_key IS
    'Key of the picture that shows the damage marked on the photograph.';
COMMENT ON COLUMN restorations.preview_key IS
    'Key of the preview JPEG.';
COMMENT ON COLUMN restorations.scores IS
    'Quality scores as JSON: "derivative.metric.moment" and its value; moment is before, after or fidelity.';
COMMENT ON COLUMN restorations.attempts IS
    'How often it was begun.';
COMMENT ON COLUMN restorations.seconds IS
    'Seconds that the stages of the last attempt took, together.';
COMMENT ON COLUMN restorations.planned_at IS
    'When the restoration was first planned; before anything was written.';
COMMENT ON COLUMN restorations.started_at IS
    'When the last attempt began.';
COMMENT ON COLUMN restorations.finished_at IS
    'When the last attempt ended; NULL while it runs.';
COMMENT ON COLUMN restorations.prefix IS
    'Folder of the restored version in its bucket.';
COMMENT ON COLUMN restorations.nightly_run_id IS
    'The night of the last attempt; NULL if a person started it.';
COMMENT ON COLUMN restorations.flow_run_id IS
    'Prefect flow run of the last attempt.';
COMMENT ON COLUMN restorations.glassplate_version IS
    'Version of glassplate that made the last attempt.';
COMMENT ON COLUMN restorations.device IS
    'Kind of device of the last attempt, such as cpu or cuda.';
