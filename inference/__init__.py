"""How tokens are spent: the engine interface and how a trace is read."""
