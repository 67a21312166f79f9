"""Places: settings, the S3 store, the embedded stack."""
