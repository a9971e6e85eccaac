"""Weights of other projects' MinkUNets, turned into checkpoints of this one.

`zoos` says what a project's weights mean, `layouts` how it names and lays out tensors, `architecture` which network
they belong to; `pth` reads files and `convert` puts it all together.
"""
