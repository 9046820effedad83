"""DICOM-native protection of medical images against unauthorised training.

Import what you need from the submodules; this module imports nothing heavy.
"""

__version__ = "0.1.0"
