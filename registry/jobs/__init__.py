"""Background jobs: training, studies and exports, with progress, cancelling, retrying and logs."""
