"""PACS over DICOMweb and DIMSE: what is there, fetch it, send it; files as bytes, never decoded."""
