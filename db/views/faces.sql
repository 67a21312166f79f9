CREATE VIEW faces AS
SELECT f.restoration_id,
       s.key,
       r.recipe_name AS recipe,
       f.attempt,
       f.attempt = r.attempts AS last_attempt,
       f.number,
       f.outcome,
       f.reason,
       f.box_left,
       f.box_top,
       f.box_right,
       f.box_bottom,
       f.landmarks,
       f.height_px,
       f.score,
       f.worked_px,
       f.fidelity,
       f.landmark_movement,
       f.low_difference,
       f.identity_distance,
       f.identity_measure,
       f.model_id,
       f.weights_sha256
FROM face f
JOIN restoration r ON r.id = f.restoration_id
JOIN attempt a ON a.restoration_id = f.restoration_id AND a.number = f.attempt
JOIN scan s ON s.id = a.scan_id;

COMMENT ON VIEW faces IS
    'One row for every face found in a scan: where it is, and whether it was restored, reverted or left alone, and why.';
COMMENT ON COLUMN faces.restoration_id IS
    'The restoration that the face was found in.';
COMMENT ON COLUMN faces.key IS
    'Key of the master.';
COMMENT ON COLUMN faces.recipe IS
    'Name of the recipe.';
COMMENT ON COLUMN faces.attempt IS
    'Number of the attempt, from 1.';
COMMENT ON COLUMN faces.last_attempt IS
    'Whether it is the restoration''s last attempt so far.';
COMMENT ON COLUMN faces.number IS
    'Number of the face in the scan, from 1, smallest first.';
COMMENT ON COLUMN faces.outcome IS
    'restored, reverted (the identity gate found somebody else in what the network made) or left alone.';
COMMENT ON COLUMN faces.reason IS
    'Why it was reverted or left alone; NULL where it was restored.';
COMMENT ON COLUMN faces.box_left IS
    'Left side of the face''s box, in pixels of the upright picture.';
COMMENT ON COLUMN faces.box_top IS
    'Top of the face''s box, in pixels of the upright picture.';
COMMENT ON COLUMN faces.box_right IS
    'Right side of the face''s box, in pixels of the upright picture.';
COMMENT ON COLUMN faces.box_bottom IS
    'Bottom of the face''s box, in pixels of the upright picture.';
COMMENT ON COLUMN faces.landmarks IS
    'Eyes, nose and corners of the mouth as JSON: five [x, y] in pixels of the upright picture.';
COMMENT ON COLUMN faces.height_px IS
    'Height of the face''s box in pixels: its size.';
COMMENT ON COLUMN faces.score IS
    'How sure the detector was that this is a face, 0 to 1.';
COMMENT ON COLUMN faces.worked_px IS
    'Side of the square that the network worked the face in; NULL where none did.';
COMMENT ON COLUMN faces.fidelity IS
    'The recipe''s fidelity: 1 the most faithful, 0 with all the detail the network draws.';
COMMENT ON COLUMN faces.landmark_movement IS
    'How far a landmark moved at most, as a share of the distance between the eyes; NULL where no face was left.';
COMMENT ON COLUMN faces.low_difference IS
    'Difference of the 32-px versions before and after, as a share of their contrast.';
COMMENT ON COLUMN faces.identity_distance IS
    'How far the restored face is from the one it was made of; 0 is the same.';
COMMENT ON COLUMN faces.identity_measure IS
    'What identity_distance was measured with: structure, or a registered embedding.';
COMMENT ON COLUMN faces.model_id IS
    'Face model that worked on it; NULL where none did.';
COMMENT ON COLUMN faces.weights_sha256 IS
    'sha256 of the face model''s weights.';
