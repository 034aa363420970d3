"""Importers of other dataset formats."""
