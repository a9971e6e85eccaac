"""Multi-Scale Deformable Knowledge Transfer: what images, text and a teacher add to training. None of it travels."""
