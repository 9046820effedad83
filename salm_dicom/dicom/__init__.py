"""DICOM: the only home of pydicom. Scan an export, read a series, write its derivation."""
