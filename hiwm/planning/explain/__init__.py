"""Plans and the reasons for them, as tensors and in words."""
