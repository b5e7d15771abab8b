"""What leaves Diapir for others to use: submissions of the competition."""
