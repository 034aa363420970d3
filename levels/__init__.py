"""What a level is made of: pure torch; knows no files, no planner, no other level."""

if __name__ != "hiwm.levels":  # the folder's own name belongs to other people's packages
    raise ImportError("import hiwm.levels, not levels")
