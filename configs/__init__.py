"""Every choice a user makes, as Hydra groups."""

if __name__ != "hiwm.configs":  # the folder's own name belongs to other people's packages
    raise ImportError("import hiwm.configs, not configs")
