"""Apply trained models: probabilities of salt from images, and how good they are."""
