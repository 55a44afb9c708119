"""A host of digests: deployments, images, boot files."""
