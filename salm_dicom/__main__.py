"""`python -m salm_dicom` is the command line."""

from salm_dicom.cli.main import main

if __name__ == "__main__":
    main()
