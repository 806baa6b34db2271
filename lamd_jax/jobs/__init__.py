"""What the command line can be asked for, a job each."""
