"""Each boot loader's rules: entries, order, overrides."""
