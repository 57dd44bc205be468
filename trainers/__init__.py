"""nnU-Net trainer classes, and nothing else: nnU-Net imports every module in this folder while it looks for one."""
