"""One rule a file; see `lorakit.lint`."""
