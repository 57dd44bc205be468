"""Model folders of the parties: reading, comparing and writing them."""
