"""Census, splits and synthetic tiles: what happens to data before a model sees it."""
