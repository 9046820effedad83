"""SALMd in front of training: a network learns from protected volumes, nothing is written.

Run: python examples/train_on_protected.py PROTECTOR_FOLDER SERIES=LABEL [SERIES=LABEL ...]
The protector comes from `salm-dicom fit`. Intensity transforms and resampling stand after SALMd.
"""

import sys
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets.classifier import Classifier
from monai.transforms import Compose, RandFlipd, Resized, ScaleIntensityRanged

from salm_dicom.transforms import LoadVolumed, SALMd

SIZE = (48, 48, 8)


def main(protector: Path, labels: dict[str, str], epochs: int = 3) -> list[float]:
    """Train on every series folder in `labels`; return the mean loss of each epoch."""
    classes = sorted(set(labels.values()))
    pipeline = Compose(
        [
            LoadVolumed("image"),
            SALMd("image", protector, label_key="label"),  # cached: it is deterministic
            ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True),
            Resized("image", SIZE),
            RandFlipd("image", prob=0.5, spatial_axis=0),
        ]
    )
    pipeline.set_random_state(0)
    torch.manual_seed(0)
    items = [{"image": folder, "label": label} for folder, label in labels.items()]
    loader = DataLoader(CacheDataset(items, pipeline, progress=False), batch_size=2, shuffle=True)
    network = Classifier(
        in_shape=(1, *SIZE), classes=len(classes), channels=(8, 16), strides=(2, 2)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    means = []
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            wanted = torch.tensor([classes.index(label) for label in batch["label"]])
            loss = torch.nn.functional.cross_entropy(network(batch["image"].as_tensor()), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        means.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: loss {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(argument.rsplit("=", 1) for argument in sys.argv[2:]))
