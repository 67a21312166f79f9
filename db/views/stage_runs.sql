CREATE VIEW stage_runs AS
SELECT x.restoration_id,
       s.key,
       r.recipe_name AS recipe,
       x.attempt,
       x.attempt = r.attempts AS last_attempt,
       x.position,
       x.stage,
       x.outcome,
       x.reason,
       x.error_type,
       x.model_id,
       x.weights_sha256,
       x.licence,
       x.data_terms,
       x.stage_version,
       x.result_key,
       x.device,
       x.seconds,
       x.peak_memory_bytes,
       x.reused,
       x.measures,
       x.flow_run_id,
       x.task_run_id,
       x.recorded_at
FROM stage_run x
JOIN restoration r ON r.id = x.restoration_id
JOIN attempt a ON a.restoration_id = x.restoration_id AND a.number = x.attempt
JOIN scan s ON s.id = a.scan_id;

COMMENT ON VIEW stage_runs IS
    'One row for every stage of every attempt: what ran, with which model and weights, how it ended and what it took.';
COMMENT ON COLUMN stage_runs.restoration_id IS
    'The restoration that the stage belongs to.';
COMMENT ON COLUMN stage_runs.key IS
    'Key of the master.';
COMMENT ON COLUMN stage_runs.recipe IS
    'Name of the recipe.';
COMMENT ON COLUMN stage_runs.attempt IS
    'Number of the attempt, from 1.';
COMMENT ON COLUMN stage_runs.last_attempt IS
    'Whether it is the restoration''s last attempt so far.';
COMMENT ON COLUMN stage_runs.position IS
    'Place of the stage in the pipeline, from 1.';
COMMENT ON COLUMN stage_runs.stage IS
    'Name of the stage, such as detect or inpaint.';
COMMENT ON COLUMN stage_runs.outcome IS
    'done, skipped, failed or quarantined.';
COMMENT ON COLUMN stage_runs.reason IS
    'Why it was skipped, failed or quarantined.';
COMMENT ON COLUMN stage_runs.error_type IS
    'Kind of the error of a failed stage.';
COMMENT ON COLUMN stage_runs.model_id IS
    'Model or algorithm that did the work.';
COMMENT ON COLUMN stage_runs.weights_sha256 IS
    'sha256 of the model''s weights; NULL for an algorithm without weights.';
COMMENT ON COLUMN stage_runs.licence IS
    'Licence of the model.';
COMMENT ON COLUMN stage_runs.data_terms IS
    'Terms of the data that the model was trained on.';
COMMENT ON COLUMN stage_runs.stage_version IS
    'Hash of the code that the stage ran.';
COMMENT ON COLUMN stage_runs.result_key IS
    'Hash of all that determines the result: input, settings, weights and code.';
COMMENT ON COLUMN stage_runs.device IS
    'Kind of device, such as cpu or cuda.';
COMMENT ON COLUMN stage_runs.seconds IS
    'Seconds the stage took for this scan.';
COMMENT ON COLUMN stage_runs.peak_memory_bytes IS
    'Highest memory of the process during the stage, in bytes.';
COMMENT ON COLUMN stage_runs.reused IS
    'Whether a result that was there already (of a killed run, say) was taken.';
COMMENT ON COLUMN stage_runs.measures IS
    'What the stage measured on its way, as JSON: names and numbers.';
COMMENT ON COLUMN stage_runs.flow_run_id IS
    'Prefect flow run.';
COMMENT ON COLUMN stage_runs.task_run_id IS
    'Prefect task run.';
COMMENT ON COLUMN stage_runs.recorded_at IS
    'When this row was written.';
