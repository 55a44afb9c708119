"""All fuzz targets, by the name of their invariant."""

from __future__ import annotations

from fuzz import binary_targets, loader_targets, state_targets

TARGETS = {target.name: target for target in (*loader_targets.TARGETS, *state_targets.TARGETS, *binary_targets.TARGETS)}
