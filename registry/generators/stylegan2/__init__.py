"""StyleGAN2: the network, its checkpoints, its adapter, its training."""
