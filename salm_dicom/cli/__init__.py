"""The command line: one file for each command; results to stdout, everything else to stderr."""
