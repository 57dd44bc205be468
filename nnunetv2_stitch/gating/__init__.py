"""What a party's images look like (signatures), and who answers to an image that looks so (the gate)."""
