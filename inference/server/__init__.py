"""An OpenAI-compatible server whose answers come from a policy: many users, one engine batch, an account of each."""
