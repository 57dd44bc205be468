"""What stitching is compared with: fine-tuning, merged data, federated learning, weight averages, plain ensembles."""
