CREATE VIEW events AS
SELECT e.id AS event_id,
       e.at,
       e.kind,
       e.scan_key AS key,
       e.restoration_id,
       e.nightly_run_id,
       e.detail
FROM event e;

COMMENT ON VIEW events IS
    'Everything that happened, in order. Rows are only ever added: the database refuses to change or delete one.';
COMMENT ON COLUMN events.event_id IS
    'Number of the event; later events have higher numbers.';
COMMENT ON COLUMN events.at IS
    'When it happened.';
COMMENT ON COLUMN events.kind IS
    'What happened: claimed, restored, skipped, failed, quarantined, released, lost, night_opened, night_closed, batch_sent, batch_broke_off, webhook_failed, ...';
COMMENT ON COLUMN events.key IS
    'Key of the master it is about; NULL if it is about none.';
COMMENT ON COLUMN events.restoration_id IS
    'Restoration it is about; NULL if it is about none.';
COMMENT ON COLUMN events.nightly_run_id IS
    'Night it belongs to; NULL if to none.';
COMMENT ON COLUMN events.detail IS
    'More about it, as JSON.';
