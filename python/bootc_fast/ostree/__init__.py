"""The other kind of host: deployments of commits, through libostree."""
