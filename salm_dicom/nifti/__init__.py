"""NIfTI in and out on stored integers; the only home of nibabel."""
