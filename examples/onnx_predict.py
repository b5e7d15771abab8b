"""Finds salt with an exported model; needs ONNX Runtime and NumPy, nothing of Diapir.

    diapir export --format onnx --out salt.onnx
    python examples/onnx_predict.py salt.onnx images.npy masks.npy

`images.npy` holds uint8 grey values, (N, height, width) or (height, width), of any size;
`masks.npy` gets 0 and 1 in the same shape.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

model_file, images_file, masks_file = sys.argv[1:]
for file in (model_file, images_file):
    if not Path(file).is_file():
        sys.exit(f"{file}: there is no such file")

session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
threshold = float(about["threshold"])

images = np.load(images_file)
if images.dtype != np.uint8:
    sys.exit(f"{images_file}: grey values as uint8 are wanted, not {images.dtype}")
batches = images.reshape(-1, 1, *images.shape[-2:])  # (N, 1, H, W)

masks = np.zeros(batches.shape, np.uint8)
for start in range(0, len(batches), 16):
    (probs,) = session.run(["probs"], {"images": batches[start : start + 16]})
    masks[start : start + 16] = probs > threshold

np.save(masks_file, masks.reshape(images.shape))
print(f"{masks.any(axis=(1, 2, 3)).sum()} of {len(masks)} images hold salt")
