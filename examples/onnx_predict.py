"""Predicts with an exported model, ONNX Runtime and NumPy, nothing of Diapir.

    diapir export --format onnx --out salt.onnx
    python examples/onnx_predict.py salt.onnx images.npy masks.npy

`images.npy` holds uint8 grey values, (N, height, width) or (height, width), of any size;
`masks.npy` gets 0 and 1 in the same shape: the masks of `diapir predict`.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def cleaned(mask, probs):
    """Return a mask (H, W) without its small and its doubtful bodies; sides connect pixels."""
    kept, left = np.zeros_like(mask), set(map(tuple, np.argwhere(mask).tolist()))
    while left:
        body = [left.pop()]
        for row, column in body:  # grows on the way
            beside = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}
            body += beside & left
            left -= beside
        places = tuple(np.transpose(body))
        kept[places] = len(body) >= min_body and probs[places].max() > min_peak
    return kept


model_file, images_file, masks_file = sys.argv[1:]
for file in (model_file, images_file):
    if not Path(file).is_file():
        sys.exit(f"{file}: there is no such file")

session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
if "z_feet" in {given.name for given in session.get_inputs()}:
    sys.exit(f"{model_file}: this model wants the depth of each image, which is not given here")
about = session.get_modelmeta().custom_metadata_map
names = ("threshold", "min_body", "min_peak", "empty_below")
threshold, min_body, min_peak, empty_below = (float(about[name]) for name in names)

images = np.load(images_file)
if images.dtype != np.uint8:
    sys.exit(f"{images_file}: grey values as uint8 are wanted, not {images.dtype}")
batches = images.reshape(-1, 1, *images.shape[-2:])  # (N, 1, H, W)

masks = np.zeros(batches.shape, np.uint8)
for start in range(0, len(batches), 16):
    (probs,) = session.run(["probs"], {"images": batches[start : start + 16]})
    for mask, (prob,) in zip(masks[start : start + 16], probs, strict=True):
        if prob.sum(dtype=np.float64) >= empty_below:
            mask[0] = cleaned(prob > threshold, prob)

np.save(masks_file, masks.reshape(images.shape))
print(f"{masks.any(axis=(1, 2, 3)).sum()} of {len(masks)} images hold salt")
