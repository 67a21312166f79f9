"""S3 by key and by sha256: the only boto3."""
