"""Readers of other people's weights and tokenizers."""
