"""Finding documents: one protocol, its implementations in this process and behind a server, and a server of our own."""
