"""The recipe format: schema, resolution into stages, stage folders. No torch."""
