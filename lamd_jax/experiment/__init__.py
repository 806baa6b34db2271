"""One experiment: its run, its work folder, its trained parts, its batches."""
