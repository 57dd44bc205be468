"""The two trained models that the demo begins with; a package, so that its files are installed."""
