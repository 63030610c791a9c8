"""A run as one page that explains itself: offline, printable, made from the run folder alone."""
