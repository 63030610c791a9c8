"""What is seen while a run trains: one trouble a file, see `lorakit.train.watch`."""
