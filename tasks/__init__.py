"""Tasks: one stage a file, each a pure function on pixels wrapped once by ``tasks.stage``."""
