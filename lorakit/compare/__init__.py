"""Five ways to answer the same questions, measured: what they are worth, take and cost."""
