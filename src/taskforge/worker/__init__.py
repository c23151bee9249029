"""The worker process: it claims jobs, runs their handlers and reports how they ended."""
