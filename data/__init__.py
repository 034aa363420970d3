"""Trajectories: HDF5 store, clips, collection, importers, latent cache; knows no model."""

if __name__ != "hiwm.data":  # the folder's own name belongs to other people's packages
    raise ImportError("import hiwm.data, not data")
