"""Measures of videos: arrays in, numbers out."""
