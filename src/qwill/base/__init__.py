"""Ground floor: configuration, artifacts and manifests, resolve, packages, devices, progress, errors.

Imports no other room.
"""
