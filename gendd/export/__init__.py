"""Export of a trained student: its outputs, the formats, and the comparison of a file with the original."""
