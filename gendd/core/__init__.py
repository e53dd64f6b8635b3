"""Helpers that all packages share and that do not depend on distillation."""
