"""What stitching is compared with: fine-tuning, pooled data, federated learning, weight averages, plain ensembles."""
