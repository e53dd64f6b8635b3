"""Student, teacher and targets."""
