"""What trainings of ours that end in an ordinary nnU-Net model have in common."""
