"""What can go wrong with a sparse autoencoder.

SaeError
├── SaeFileError   a folder holds no autoencoder that can be read faithfully
├── SaeShapeError  tensors, latents or settings that do not fit together
├── TrainingError  training cannot start, continue or resume
└── MetricError    a figure is undefined on the given activations
"""


class SaeError(Exception):
    """Root of the autoencoder room's errors."""


class SaeFileError(SaeError):
    """A folder holds no autoencoder that can be read faithfully."""


class SaeShapeError(SaeError):
    """Tensors, latents or settings do not fit together."""


class TrainingError(SaeError):
    """Training cannot start, continue or resume."""


class MetricError(SaeError):
    """A figure is undefined on the given activations."""
