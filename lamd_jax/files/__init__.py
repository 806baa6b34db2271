"""Files that are written whole or not at all, and rows kept by content."""
