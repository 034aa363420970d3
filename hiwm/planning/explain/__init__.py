"""Records of why a plan is as it is, and their words."""
