"""What any training loop needs; knows no system."""
