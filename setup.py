"""Packaging that does not depend on the links in hiwm/: the four rooms are mapped into the package here."""

from setuptools import find_packages, setup

ROOMS = ("levels", "data", "analysis", "configs")

packages = ["hiwm", *(f"hiwm.{name}" for name in find_packages("hiwm", exclude=[f"{r}*" for r in ROOMS]))]
for room in ROOMS:
    packages += [f"hiwm.{room}", *(f"hiwm.{room}.{name}" for name in find_packages(room))]
setup(packages=packages, package_dir={"hiwm": "hiwm", **{f"hiwm.{room}": room for room in ROOMS}})
