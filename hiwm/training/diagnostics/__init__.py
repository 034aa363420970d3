"""Diagnostics of the representation of a level, computed at every validation; one file per kind."""
