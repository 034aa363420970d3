"""Trajectory data: HDF5 store, importers, clips and collection. Nothing here knows a model."""

if __name__ != "hiwm.data":  # a top-level package called `data` would clash with other packages
    raise ImportError("import hiwm.data, not data")
