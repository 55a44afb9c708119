"""bootc-fast: finishes and undoes updates of image-based Linux hosts that bootc installed."""

__version__ = "0.1.0"
