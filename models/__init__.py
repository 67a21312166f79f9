"""Models: pixels. Decoding, detection, filling, networks; nothing here knows the archive."""
