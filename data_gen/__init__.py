"""Where problems and traces come from."""
