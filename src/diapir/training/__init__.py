"""Training: the losses, the task that Lightning runs, and the fit around it."""
