CREATE VIEW derivatives AS
SELECT d.restoration_id,
       s.key,
       r.recipe_name AS recipe,
       d.kind,
       d.label,
       d.bucket AS derivative_bucket,
       d.key AS derivative_key,
       d.sha256,
       d.size_bytes,
       d.media_type,
       d.width,
       d.height,
       d.bits,
       d.outside_mask_sha256,
       d.published_at
FROM derivative d
JOIN restoration r ON r.id = d.restoration_id
JOIN scan s ON s.id = r.scan_id;

COMMENT ON VIEW derivatives IS
    'One row for every published object: what it is, where it lies and which bytes it must have.';
COMMENT ON COLUMN derivatives.restoration_id IS
    'The restoration that made it.';
COMMENT ON COLUMN derivatives.key IS
    'Key of the master it was made from.';
COMMENT ON COLUMN derivatives.recipe IS
    'Name of the recipe.';
COMMENT ON COLUMN derivatives.kind IS
    'What it is in a word: cleaned, mask, overlay, preview, record, ...';
COMMENT ON COLUMN derivatives.label IS
    'What it is in words, as it is labelled for readers.';
COMMENT ON COLUMN derivatives.derivative_bucket IS
    'Bucket it lies in.';
COMMENT ON COLUMN derivatives.derivative_key IS
    'Key it lies under.';
COMMENT ON COLUMN derivatives.sha256 IS
    'sha256 of the object; what lies there with another one is not ours.';
COMMENT ON COLUMN derivatives.size_bytes IS
    'Size of the object in bytes.';
COMMENT ON COLUMN derivatives.media_type IS
    'Media type, such as image/tiff.';
COMMENT ON COLUMN derivatives.width IS
    'Width in pixels; NULL for what is no picture.';
COMMENT ON COLUMN derivatives.height IS
    'Height in pixels.';
COMMENT ON COLUMN derivatives.bits IS
    'Bits per channel.';
COMMENT ON COLUMN derivatives.outside_mask_sha256 IS
    'Hash of the pixels outside the damage mask, which equal the master''s.';
COMMENT ON COLUMN derivatives.published_at IS
    'When it was written and read back.';
