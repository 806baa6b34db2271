"""Other people's weights: files in, arrays out."""
