"""The page in the browser: surveys, sections and tiles to look at and correct."""
