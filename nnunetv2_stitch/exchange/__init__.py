"""Models that travel between parties: what is sent, and how what arrives is checked. Nothing heavy is imported here."""
