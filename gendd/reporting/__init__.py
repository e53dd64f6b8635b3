"""Reports: tables and pictures that compare finished runs."""
