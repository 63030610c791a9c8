"""Before and after: paired intervals and verdicts."""
