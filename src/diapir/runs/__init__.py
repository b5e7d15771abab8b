"""A run: one training from data to model file, scores, figures and report, in one folder."""
