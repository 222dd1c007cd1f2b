"""Real servers for tests and benchmarks: how they are started, what they read, and a proxy that spoils answers."""
