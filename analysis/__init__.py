"""What was learned: figures, the report, notebooks; nothing imports it."""

if __name__ != "hiwm.analysis":  # the folder's own name belongs to other people's packages
    raise ImportError("import hiwm.analysis, not analysis")
