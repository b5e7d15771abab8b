"""Readers and writers: tiles and their tables, images, run-lengths, atomic files. No torch here."""
