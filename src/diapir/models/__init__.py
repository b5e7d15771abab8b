"""Networks that turn a seismic tile into salt logits, and the file that carries them."""
