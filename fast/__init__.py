"""The fast rollout and its proof: decoding weights and steps, kernels, benches."""
